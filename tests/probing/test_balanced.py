"""Pairs in the balanced measure: nodes with its moments, and fits from exact tables against scikit-learn on the tokens."""

import numpy as np
import pytest
import torch
from probing.labelled import table
from probing.worlds import N, world
from sklearn.linear_model import LogisticRegression

from saev.probing.logistic import balanced as balanced_module
from saev.probing.logistic.balanced import balanced, token_weights
from saev.probing.logistic.fit import RIDGE, Status, prevalence_entropy, solve
from saev.probing.logistic.nodes import nodes

X, CODES, Y, CLASSES = world()
EVERY = torch.arange(len(CLASSES)).expand(len(X), -1)
TABLE = table(CODES.float(), Y)
EXACT = balanced(TABLE, EVERY, 23)
FIT = solve(*EXACT)
PAIRS = [(k, c) for k in range(len(X)) for c in range(len(CLASSES))]


def weights(y):
    """scikit-learn's balanced weights of tokens, which sum to their number."""
    return np.where(y, len(y) / 2 / y.sum(), len(y) / 2 / (~y).sum())


def mean_loss(x, y, b, w):
    score = b + w * x
    return float(np.average(np.logaddexp(0, score) - y * score, weights=weights(y)))


def of_pair(nodes, pair):
    part = slice(int(nodes.offsets[pair]), int(nodes.offsets[pair + 1]))
    return nodes.values[part].numpy(), nodes.weights[part].numpy()


def test_both_sides_of_a_class_weigh_half():
    y = torch.tensor([3, 0, 10, 5])
    of_negatives, of_positives = token_weights(y, 10)
    for sums in (of_positives * y, of_negatives * (10 - y)):
        assert sums[[0, 3]].tolist() == pytest.approx([5, 5], rel=1e-15)
    assert of_negatives[1] == 1 and of_positives[2] == 1


@pytest.mark.parametrize(("mantissa_bits", "bits", "rtol"), [(23, 23, 1e-10), (23, 3, 1e-9), (10, 3, 1e-3)])
def test_nodes_have_the_moments_of_the_weighted_tokens(mantissa_bits, bits, rtol):
    found = balanced(table(CODES.float(), Y, mantissa_bits), EVERY, bits)
    for pair, (k, c) in enumerate(PAIRS):
        x, y = CODES[:, k].numpy(), Y[:, c].numpy()
        v = weights(y)
        values, mass = of_pair(found.nodes, pair)
        assert mass.min() > 0 and mass.sum() == pytest.approx(N, rel=1e-12) and (np.diff(values) > 0).all()
        assert found.positives[pair].item() == pytest.approx(N / 2, rel=1e-14)
        assert found.p1[pair].item() == pytest.approx((v * x * y).sum(), rel=rtol, abs=1e-12)
        for power in (1, 2, 3):
            scale = (v * np.abs(x) ** power).sum()
            assert (mass * values**power).sum() == pytest.approx((v * x**power).sum(), abs=rtol * scale), (k, c, power)


def test_exact_nodes_are_the_distinct_codes():
    for pair, (k, c) in enumerate(PAIRS):
        values, mass = of_pair(EXACT.nodes, pair)
        expected, place = np.unique(CODES[:, k].numpy(), return_inverse=True)
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_allclose(mass, np.bincount(place, weights(Y[:, c].numpy())), rtol=1e-12)
    assert not EXACT.nodes.hidden.any()


@pytest.mark.parametrize("ridge", [1e-8, 1e-3])
def test_losses_are_those_of_scikit_learn(ridge):
    fit, compared = solve(*EXACT, ridge), 0
    for pair, (k, c) in enumerate(PAIRS):
        # With the smallest ridge nothing but it holds separable pairs, where scikit-learn does not converge.
        if FIT.status[pair] == Status.CONSTANT or (ridge == 1e-8 and FIT.status[pair] == Status.SEPARABLE):
            continue
        x, y = CODES[:, k].numpy(), Y[:, c].numpy()
        mean = np.average(x, weights=weights(y))
        std = np.sqrt(np.average((x - mean) ** 2, weights=weights(y)))
        model = LogisticRegression(
            C=1 / (N * ridge), class_weight="balanced", solver="newton-cholesky", tol=1e-10, max_iter=500
        ).fit(((x - mean) / std)[:, None], y)
        w = model.coef_[0, 0] / std
        theirs = mean_loss(x, y, model.intercept_[0] - w * mean, w)
        assert fit.loss[pair].item() == pytest.approx(theirs, rel=1e-6), (k, c)
        assert mean_loss(x, y, fit.b[pair].item(), fit.w[pair].item()) == pytest.approx(theirs, rel=1e-6)
        compared += 1
    assert compared > 25


def test_each_pair_ends_as_without_weights():
    unweighted = solve(EXACT.nodes, EXACT.positives, EXACT.p1)
    assert torch.equal(unweighted.status, FIT.status)
    for pair, (k, c) in enumerate(PAIRS):
        x, y = CODES[:, k], Y[:, c]
        expected = Status.CONVERGED
        if x.unique().numel() == 1:
            expected = Status.CONSTANT
        elif x[y].min() >= x[~y].max() or x[y].max() <= x[~y].min():
            expected = Status.SEPARABLE
        assert FIT.status[pair] == expected, (k, c)
    assert FIT.b.isfinite().all() and (FIT.loss <= np.log(2) * (1 + 1e-12)).all()


def test_constant_codes_get_even_odds():
    constant = FIT.status == Status.CONSTANT
    assert constant.sum() == 2 * len(CLASSES)  # dead, and always the same
    assert (FIT.w[constant] == 0).all() and FIT.b[constant].abs().max() < 1e-12
    for losses in (FIT.loss[constant], prevalence_entropy(EXACT.positives, N)):
        torch.testing.assert_close(losses, torch.full_like(losses, np.log(2)), rtol=1e-12, atol=0)


def test_classes_of_no_token_or_of_all_are_constant():
    y = torch.stack([torch.zeros(N, dtype=torch.bool), torch.ones(N, dtype=torch.bool)], 1)
    pairs = balanced(table(CODES.float(), y), torch.arange(2).expand(len(X), -1))
    assert torch.equal(pairs.positives.view(-1, 2), torch.tensor([0.0, N]).double().expand(len(X), -1))
    fit = solve(*pairs)
    assert (fit.status == Status.CONSTANT).all() and (fit.w == 0).all() and (fit.loss == 0).all()
    assert torch.equal(fit.b.view(-1, 2)[0], torch.tensor([-torch.inf, torch.inf]).double())


def test_classes_without_a_code_share_the_nodes_that_all_tokens_have():
    k = list(X).index("sparse")
    silent = CODES[:, k] == 0
    y = torch.stack([silent & (torch.arange(N) % 7 == 0), silent & (torch.arange(N) % 31 == 0), Y[:, 0]], 1)
    one = table(CODES[:, [k]].float(), y)
    pairs, plain = balanced(one, torch.tensor([[0, 1, 2]])).nodes, nodes(one)
    values = [of_pair(pairs, pair)[0] for pair in range(3)]
    np.testing.assert_array_equal(values[0], values[1])
    assert (values[0] != values[2]).any()
    np.testing.assert_allclose(values[0], plain.values, rtol=1e-12)
    for pair in (0, 1):
        mass, lighter = of_pair(pairs, pair)[1], float(token_weights(y[:, pair].sum(), N)[0])
        fired = values[0] != 0
        np.testing.assert_allclose(mass[fired], plain.weights.numpy()[fired] * lighter, rtol=1e-9)


def test_nodes_are_made_anew_only_where_a_class_has_codes(monkeypatch):
    """Guards against time in proportion to cells * classes: most cells of a rare class hold none of it."""
    made, gauss = [], balanced_module.gauss_points
    monkeypatch.setattr(balanced_module, "gauss_points", lambda *of: made.append(of[0].numel()) or gauss(*of))
    y = torch.nn.functional.one_hot(torch.arange(N) % 100, 100).bool()
    one = table(CODES[:, [list(X).index("sparse")]].float(), y)
    balanced(one, torch.arange(100)[None])
    assert sum(made) <= len(one.count) + len(one.joint)


def test_latents_with_some_classes_are_pairs_of_all():
    some = torch.tensor([[3, 1]]).expand(len(X), -1)
    few = balanced(TABLE, some, 23)
    at = (torch.arange(len(X))[:, None] * len(CLASSES) + some).flatten()
    values, mass, _ = EXACT.nodes.padded(at)
    own_values, own_mass, _ = few.nodes.padded(torch.arange(len(at)))
    assert torch.equal(values, own_values) and torch.equal(mass, own_mass)
    assert torch.equal(few.p1, EXACT.p1[at]) and torch.equal(few.positives, EXACT.positives[at])


def test_a_bin_that_hides_which_token_is_of_the_class_may_hide_that_they_are_separable():
    x = torch.tensor([[0.0], [1.0], [1.0001], [2.0], [2.0]])
    for hit, status in ((1, Status.CONVERGED), (2, Status.SEPARABLE)):
        y = torch.tensor([False, False, False, True, True])
        y[hit] = True
        assert solve(*balanced(table(x, y[:, None]), torch.tensor([[0]]), 23)).status == status
        coarse = balanced(table(x, y[:, None], mantissa_bits=10), torch.tensor([[0]]))
        assert solve(*coarse).status == Status.SEPARABLE


def test_ten_times_the_codes_is_a_tenth_of_the_slope():
    pairs = balanced(table((CODES * 10).float(), Y), EVERY, 23)
    fit = solve(*pairs, RIDGE)
    assert torch.equal(fit.status, FIT.status)
    easy = FIT.status == Status.CONVERGED
    torch.testing.assert_close(fit.loss[easy], FIT.loss[easy], rtol=1e-6, atol=0)
    torch.testing.assert_close(fit.loss[~easy], FIT.loss[~easy], rtol=1e-5, atol=0)  # float32 cannot hold all of 10 x
    torch.testing.assert_close(fit.w[easy] * 10, FIT.w[easy], rtol=1e-4, atol=0)
