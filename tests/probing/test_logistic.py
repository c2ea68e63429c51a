"""All 1-D probes at once: against scikit-learn and a plain Newton, from exact codes and from bins; every pair has a status."""

import numpy as np
import pytest
import torch
from probing.worlds import N, world
from sklearn.linear_model import LogisticRegression
from tables import table

from benchmarks.probe_reference import exact_nodes
from saev.probing.logistic.fit import RIDGE, Status, cross_entropy, prevalence_entropy, solve
from saev.probing.logistic.nodes import nodes

X, CODES, Y, CLASSES = world()
POSITIVES, P1 = Y.sum(0), CODES.T @ Y.double()


def raw(x):
    latent, token = x.T.nonzero(as_tuple=True)
    return exact_nodes(latent, x[token, latent], x.shape[1], len(x))


EXACT = raw(CODES)
FIT = solve(EXACT, POSITIVES, P1)


def objective(x, y, b, w, ridge=RIDGE):
    """Mean cross-entropy plus ridge, straight from the definition; the loss without it second."""
    t = b + w * x
    loss = float((np.logaddexp(0, t) - t * y).mean())
    return loss + ridge / 2 * w**2 * x.var(), loss


def newton(x, y, ridge=RIDGE):
    """A plain damped Newton on one pair's standardised tokens, in float64, to the end."""
    u = (x - x.mean()) / x.std()
    v = np.array([np.log(y.mean() / (1 - y.mean())), 0.0])
    here = objective(u, y, *v, ridge)[0]
    for _ in range(200):
        s = 1 / (1 + np.exp(-np.clip(v[0] + v[1] * u, -700, 700)))
        q = s * (1 - s)
        gradient = np.array([(s - y).mean(), ((s - y) * u).mean() + ridge * v[1]])
        hessian = np.array([[q.mean(), (q * u).mean()], [(q * u).mean(), (q * u * u).mean() + ridge]])
        step = -np.linalg.solve(hessian, gradient)
        while objective(u, y, *(v + step), ridge)[0] > here * (1 + 1e-15) and np.abs(step).max() > 1e-15:
            step /= 2
        v, before, here = v + step, here, objective(u, y, *(v + step), ridge)[0]
        if -gradient @ step < 1e-17 * before:
            break
    return v[0] - v[1] * x.mean() / x.std(), v[1] / x.std()


def pairs(*statuses):
    chosen = torch.isin(FIT.status, torch.tensor(statuses, dtype=torch.int8))
    return [(list(X)[k], CLASSES[c], k, c) for k, c in chosen.nonzero().tolist()]


def test_each_pair_ends_as_it_should():
    found = {(x, y): Status(int(FIT.status[k, c])) for k, x in enumerate(X) for c, y in enumerate(CLASSES)}
    expected = {pair: Status.CONVERGED for pair in found}
    for k, x in enumerate(X):
        for c, y in enumerate(CLASSES):
            code, label = CODES[:, k], Y[:, c]
            ends = code[label].min() >= code[~label].max() or code[label].max() <= code[~label].min()
            if code.unique().numel() == 1:
                expected[x, y] = Status.CONSTANT
            elif ends:
                expected[x, y] = Status.SEPARABLE
    assert found == expected and set(found.values()) == {Status.CONVERGED, Status.SEPARABLE, Status.CONSTANT}


@pytest.mark.parametrize("ridge", [1e-8, 1e-3])
@pytest.mark.parametrize("latent", ["sparse", "small", "large", "signed", "far", "tied", "one value"])
def test_losses_are_those_of_scikit_learn(latent, ridge):
    k = list(X).index(latent)
    fit = solve(EXACT, POSITIVES, P1, ridge=ridge)
    x = CODES[:, k].numpy()
    for c in range(len(CLASSES)):
        if FIT.status[k, c] != Status.CONVERGED:
            continue
        reference = LogisticRegression(C=1 / (N * ridge), solver="newton-cholesky", tol=1e-10, max_iter=500)
        reference.fit(((x - x.mean()) / x.std())[:, None], Y[:, c].numpy())
        w = reference.coef_[0, 0] / x.std()
        theirs = objective(x, Y[:, c].numpy(), reference.intercept_[0] - w * x.mean(), w)[1]
        assert float(fit.loss[k, c]) == pytest.approx(theirs, rel=1e-6), CLASSES[c]


def test_five_positives_of_sixty_thousand():
    rng = np.random.default_rng(3)
    x = np.where(rng.random(60_000) < 0.02, np.exp(rng.normal(size=60_000)), 0).astype(np.float32).astype(float)
    y = np.zeros(60_000)
    y[[*rng.choice(np.flatnonzero(x > 1), 4), int(np.flatnonzero(x == 0)[0])]] = 1
    codes, (b, w) = torch.from_numpy(x)[:, None], newton(x, y)
    positives, p1 = torch.tensor([int(y.sum())]), torch.tensor([[x @ y]])
    best = objective(x, y, b, w)
    for fit in (solve(raw(codes), positives, p1), solve(nodes(table(codes)), positives, p1)):
        assert fit.status.item() == Status.CONVERGED
        ours = objective(x, y, fit.b.item(), fit.w.item())
        assert abs(ours[0] / best[0] - 1) < 1e-9
    assert solve(raw(codes), positives, p1).loss.item() == pytest.approx(best[1], rel=1e-9)


@pytest.mark.parametrize("bits", [3, 23])
def test_fits_from_bins_lose_next_to_nothing(bits):
    fine = bits if bits == 23 else 10
    fit = solve(nodes(table(CODES, fine), bits), POSITIVES, P1)
    tested = pairs(Status.CONVERGED)
    assert len(tested) > 25
    for latent, label, k, c in tested:
        x, y = CODES[:, k].numpy(), Y[:, c].numpy()
        best, ours = objective(x, y, *newton(x, y))[0], objective(x, y, fit.b[k, c].item(), fit.w[k, c].item())[0]
        assert -1e-12 < ours / best - 1 < 1e-9, (latent, label, ours / best - 1)


def test_separable_pairs_stay_finite_and_reach_the_ridge_solution():
    tested = pairs(Status.SEPARABLE)
    assert any(latent == "separating" for latent, *_ in tested)
    binned = solve(nodes(table(CODES)), POSITIVES, P1)
    for latent, label, k, c in tested:
        x, y = CODES[:, k].numpy(), Y[:, c].numpy()
        best = objective(x, y, *newton(x, y))
        ours = objective(x, y, FIT.b[k, c].item(), FIT.w[k, c].item())
        assert ours[0] == pytest.approx(best[0], rel=1e-6) and np.isfinite(ours[1]), (latent, label)
        assert float(FIT.loss[k, c]) == pytest.approx(ours[1], rel=1e-6), (latent, label)
        assert binned.status[k, c] == Status.SEPARABLE and binned.b[k, c].isfinite()
        assert binned.steps[k, c] < 20 and binned.loss[k, c] < prevalence_entropy(POSITIVES[c], N), (latent, label)


def test_classes_that_are_nowhere_a_latent_fires_are_fitted_by_the_sketch_alone():
    silent = (CODES == 0) & (torch.rand(CODES.shape, generator=torch.Generator().manual_seed(0)) < 0.02)
    for k in (list(X).index(name) for name in ("sparse", "small", "large", "seldom", "one value")):
        x, y = CODES[:, k], silent[:, k].double()
        positives, p1 = y.sum().long()[None], (x @ y)[None, None]
        best = objective(x.numpy(), y.numpy(), *newton(x.numpy(), y.numpy()))
        for points in (raw(x[:, None]), nodes(table(x[:, None]))):
            fit = solve(points, positives, p1)
            assert fit.status.item() == Status.SEPARABLE and fit.steps.item() == 0
            ours = objective(x.numpy(), y.numpy(), fit.b.item(), fit.w.item())
            assert ours[0] == pytest.approx(best[0], rel=1e-8)
            assert fit.loss.item() == pytest.approx(ours[1], rel=1e-7)


def test_one_step_on_all_nodes_is_enough_for_most_pairs():
    easy = FIT.status == Status.CONVERGED
    assert FIT.steps[easy].double().mean() < 2 and (FIT.steps[easy] >= 1).all()


def test_what_cannot_be_told_gets_the_prevalence():
    fit = solve(EXACT, torch.tensor([0, N, 30]), torch.stack([0 * CODES.sum(0), CODES.sum(0), 30 * CODES.mean(0)], 1))
    assert (fit.status[:, :2] == Status.CONSTANT).all() and (fit.w[:, :2] == 0).all() and (fit.loss[:, :2] == 0).all()
    assert (fit.b[:, 0] == -torch.inf).all() and (fit.b[:, 1] == torch.inf).all()
    dead = list(X).index("dead")
    assert fit.status[dead, 2] == Status.CONSTANT and fit.w[dead, 2] == 0
    assert float(fit.b[dead, 2]) == pytest.approx(np.log(30 / (N - 30)), rel=1e-12)
    torch.testing.assert_close(fit.loss[dead], prevalence_entropy(torch.tensor([0, N, 30]), N))


def test_out_of_steps_is_told():
    fit = solve(EXACT, POSITIVES, P1, max_steps=1)
    stopped = fit.status == Status.STOPPED
    assert stopped.any() and (fit.loss[stopped] > FIT.loss[stopped]).any() and fit.loss[stopped].isfinite().all()
    again = solve(EXACT, POSITIVES, P1, start=(fit.b, fit.w))
    assert torch.equal(again.status, FIT.status)


def test_the_order_of_tokens_and_the_scale_of_codes_do_not_matter():
    some = torch.from_numpy(np.random.default_rng(1).permutation(N))
    shuffled = solve(raw(CODES[some]), POSITIVES, CODES[some].T @ Y[some].double())
    scaled = solve(raw(CODES * 10), POSITIVES, P1 * 10)
    tenfold = (CODES * 10).float().double()
    binned = solve(nodes(table(tenfold)), POSITIVES, tenfold.T @ Y.double())
    for fit, by, rtol in ((shuffled, 1, 1e-8), (scaled, 10, 1e-8), (binned, 10, 1e-3)):
        assert torch.equal(fit.status, FIT.status)
        easy = FIT.status != Status.SEPARABLE
        torch.testing.assert_close(fit.w[easy] * by, FIT.w[easy], rtol=rtol, atol=0)
        torch.testing.assert_close(fit.b[easy], FIT.b[easy], rtol=rtol, atol=0)


def test_one_class_per_latent_is_a_column_and_polishes_from_a_start():
    winner = torch.tensor([k % len(CLASSES) for k in range(len(X))])
    positives, p1 = POSITIVES[winner][:, None], P1.gather(1, winner[:, None])
    rough = solve(nodes(table(CODES)), positives, p1)
    polished = solve(EXACT, positives, p1, start=(rough.b, rough.w))
    torch.testing.assert_close(polished.loss[:, 0], FIT.loss.gather(1, winner[:, None])[:, 0], rtol=1e-11, atol=1e-11)
    easy = polished.status == Status.CONVERGED
    assert easy.any() and polished.steps[easy].max() <= 2


def test_blocks_do_not_change_results(monkeypatch):
    monkeypatch.setattr("saev.probing.logistic.newton.SIZE", 1)
    fit = solve(EXACT, POSITIVES, P1)
    assert torch.equal(fit.status, FIT.status)
    torch.testing.assert_close(fit.loss, FIT.loss, rtol=1e-12, atol=1e-13)


def test_another_splits_cross_entropy_is_that_of_its_tokens():
    _, codes, y, _ = world(seed=1, n=1000)
    found = cross_entropy(raw(codes), y.sum(0), codes.T @ y.double(), FIT.b, FIT.w)
    t = FIT.b[None] + FIT.w[None] * codes[:, :, None]
    expected = (torch.logaddexp(t, torch.zeros(1)) - t * y[:, None]).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_class_unseen_in_training_costs_nothing_or_everything():
    latents = torch.zeros(1, dtype=torch.int64)
    three = exact_nodes(latents, torch.ones(1, dtype=torch.float64), 1, 3)
    b, w = torch.tensor([[-torch.inf, -torch.inf, torch.inf, torch.inf]]).double(), torch.zeros(1, 4).double()
    found = cross_entropy(three, torch.tensor([0, 1, 3, 2]), torch.zeros(1, 4).double(), b, w)
    assert found.tolist() == [[0, torch.inf, 0, torch.inf]]


def test_more_positives_than_tokens_are_refused():
    with pytest.raises(ValueError, match="positives up to 4001 of n_tokens=4000"):
        solve(EXACT, torch.tensor([N + 1] * len(CLASSES)), P1)
