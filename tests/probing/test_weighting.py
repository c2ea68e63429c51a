"""All pairs with and without weights: what bins cost beside exact codes, and cross-entropies straight from their definition."""

import pytest
import torch
from probing.labelled import codes, labels, many_labels, table
from probing.worlds import world

from saev.probing.class_metrics import best_latents
from saev.probing.logistic import weighting
from saev.probing.logistic.fit import RIDGE, Status, cross_entropy, solve
from saev.probing.logistic.nodes import nodes
from saev.probing.logistic.weighting import fit_all, losses_of_all_pairs, pairs_of

X, CODES, Y, _ = world()
TABLE = table(CODES.float(), Y)
EXACT = fit_all(TABLE, 23, "balanced")


def by_hand(x, y, b, w):
    """Mean cross-entropy, half of either side's, of all pairs of codes [N, L] and labels [N, C]."""
    score = b + w * x.double()[:, :, None]
    each = torch.logaddexp(score, torch.zeros(1)) - score * y[:, None]
    hit = y[:, None].double()
    return ((each * hit).sum(0) / hit.sum(0) + (each * (1 - hit)).sum(0) / (1 - hit).sum(0)) / 2


def test_without_weights_all_is_as_solve_and_cross_entropy_have_it():
    binned = table(CODES.float(), Y, 10)
    fit, plain = fit_all(binned, 3, "none", 1e-4), solve(nodes(binned, 3), binned.positives, binned.p1, 1e-4)
    assert all(torch.equal(getattr(fit, name), getattr(plain, name)) for name in ("b", "w", "loss", "steps", "status"))
    losses = cross_entropy(nodes(binned, 3), binned.positives, binned.p1, fit.b, fit.w)
    assert torch.equal(losses_of_all_pairs(binned, 3, "none", fit.b, fit.w), losses)
    classes = torch.arange(len(CODES.T)) % 4
    alone = solve(*pairs_of(TABLE, classes, "none"))
    torch.testing.assert_close(alone.loss[:, 0], fit_all(TABLE, 23, "none").loss.gather(1, classes[:, None])[:, 0])


@pytest.mark.parametrize(("mantissa_bits", "moved", "excess", "far"), [(10, 1e-4, 1e-8, 0.03), (7, 5e-3, 1e-4, 0.1)])
def test_what_bins_cost_is_small(mantissa_bits, moved, excess, far):
    """They move losses, which choose latents, by less than `moved`, and by less than `far` where codes lie many deviations
    from 0; the fits themselves are worse by less than `excess`."""
    fit = fit_all(table(CODES.float(), Y, mantissa_bits), 3, "balanced")
    assert torch.equal(fit.status, EXACT.status)
    easy = EXACT.status == Status.CONVERGED
    near = easy & torch.tensor([name not in ("far", "modes") for name in X])[:, None]
    assert near.sum() > 20 and (easy & ~near).sum() == 8
    assert (fit.loss / EXACT.loss - 1)[near].abs().max() < moved and (fit.loss / EXACT.loss - 1)[easy].abs().max() < far
    # Without the ridge, which is next to nothing where pairs converge.
    worse = by_hand(CODES, Y, fit.b, fit.w) / by_hand(CODES, Y, EXACT.b, EXACT.w) - 1
    assert worse[near].min() > -1e-9 and worse[near].max() < excess
    assert torch.equal(best_latents(fit, TABLE, 1), best_latents(EXACT, TABLE, 1))


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_every_pair_is_told_of_once(weights):
    told = []
    fit = fit_all(TABLE, 3, weights, advance=told.append)
    assert sum(told) == fit.loss.numel() and len(told) > 1


def test_few_pairs_at_a_time_are_the_same(monkeypatch):
    monkeypatch.setattr(weighting, "PAIRS_PER_BLOCK", 8)
    fit = fit_all(TABLE, 23, "balanced")
    assert torch.equal(fit.status, EXACT.status)
    torch.testing.assert_close(fit.loss, EXACT.loss, rtol=1e-12, atol=1e-13)
    found = losses_of_all_pairs(TABLE, 23, "balanced", EXACT.b, EXACT.w)
    torch.testing.assert_close(found, EXACT.loss, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("y", [labels(), many_labels()], ids=["exclusive", "many"])
def test_cross_entropies_of_another_split_are_half_of_either_sides_mean(y):
    x, hit = codes(), y if y.ndim == 2 else y[:, None] == torch.arange(4)
    counted = torch.ones(len(y), dtype=torch.bool) if y.ndim == 2 else y >= 0
    fit = fit_all(table(x, y), 23, "balanced", RIDGE)
    assert (fit.status[5] == Status.CONSTANT).all() and (fit.status[:, 3] == Status.CONSTANT).all()  # dead; no token
    torch.testing.assert_close(fit.loss[:, :3], by_hand(x[counted], hit[counted], fit.b, fit.w)[:, :3])
    val = torch.arange(len(y)) > 250
    found = losses_of_all_pairs(table(x[val], y[val]), 23, "balanced", fit.b, fit.w)
    expected = by_hand(x[counted & val], hit[counted & val], fit.b, fit.w)
    torch.testing.assert_close(found[:, :3], expected[:, :3], rtol=1e-9, atol=0)
    assert found[:, 3].isnan().all()  # no token of class 3


def test_a_class_unseen_in_training_costs_everything_where_it_is_seen():
    x, y = codes()[:, :2], many_labels()
    b = torch.full((2, 4), -torch.inf, dtype=torch.float64)
    found = losses_of_all_pairs(table(x, y), 23, "balanced", b, torch.zeros_like(b))
    assert (found[:, :3] == torch.inf).all() and found[:, 3].isnan().all()


def test_scaled_codes_choose_the_same_latents():
    fit = fit_all(table((CODES * 10).float(), Y, 10), 3, "balanced")
    assert torch.equal(fit.status, EXACT.status) and torch.equal(
        best_latents(fit, TABLE, 1), best_latents(EXACT, TABLE, 1)
    )
    common = EXACT.status[:, 0] == Status.CONVERGED
    torch.testing.assert_close(fit.loss[common, 0], EXACT.loss[common, 0], rtol=1e-3, atol=0)
    torch.testing.assert_close(fit.w[common, 0] * 10, EXACT.w[common, 0], rtol=1e-2, atol=0)
