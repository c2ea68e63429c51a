"""Monosemanticity against sums over pairs of images."""

import numpy as np
import pytest
from dictionary_bench.planted import planted

from saev.dictionary_bench.monosemanticity import monosemanticity
from saev.metrics.resampling import draws, interval


def by_pairs(column: np.ndarray, e: np.ndarray, top: int | None, counts: np.ndarray | None = None) -> float:
    span = column.max() - column.min()
    w = (column - column.min()) / (span or 1)
    if top is not None:
        w[np.argsort(column)[: max(len(w) - top, 0)]] = 0
    d = np.ones(len(w)) if counts is None else counts
    e = e / np.linalg.norm(e, axis=1, keepdims=True)
    above = 0.0, 0.0
    for a in range(len(w)):
        for b in range(a):
            pair = d[a] * d[b] * w[a] * w[b]
            above = above[0] + pair * (e[a] @ e[b]), above[1] + pair
    return above[0] / above[1] if above[1] > 0 else np.nan


@pytest.mark.parametrize("top", [None, 5])
def test_scores_are_those_of_pairs(top):
    rng = np.random.default_rng(0)
    x = (rng.random((20, 8)) * (rng.random((20, 8)) < 0.5)).astype(np.float32)
    x[:, 1], x[:, 2], x[:, 4] = 0, 0, rng.random(20) + 1  # silent; on one image; on all of them
    x[3, 2] = 1
    x[:, 5] = 1.5  # the same everywhere
    x[:, 6] -= 0.3 * (x[:, 6] == 0)  # negative codes
    e = rng.normal(size=(20, 6)) + 0.5
    found = monosemanticity(planted(x), e, draws(20, 40), top)
    scores = found.latents["monosemanticity"]
    expected = [by_pairs(column, e, top) for column in x.T.astype(np.float64)]
    assert np.allclose(scores, expected, equal_nan=True)
    assert found.n == 5 and found.value == pytest.approx(np.nanmean(expected))
    unit = e / np.linalg.norm(e, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(20, 1)]
    assert found.null == pytest.approx(cosines.mean())


def test_the_null_is_the_mean_over_permutations():
    rng = np.random.default_rng(0)
    x, e = rng.random((12, 3)).astype(np.float32), rng.normal(size=(12, 4)) + 0.5
    codes = planted(x)
    values = [monosemanticity(codes, e[rng.permutation(12)]).value for _ in range(300)]
    assert abs(np.mean(values) - monosemanticity(codes, e).null) < 4 * np.std(values) / np.sqrt(300)


def test_draws_follow_those_of_pairs():
    rng = np.random.default_rng(0)
    x, e = (rng.random((60, 4)) * (rng.random((60, 4)) < 0.7)).astype(np.float32), rng.normal(size=(60, 6)) + 0.5
    drawn = draws(60, 60)
    found = monosemanticity(planted(x), e, drawn)
    exact = [np.mean([by_pairs(c, e, None, d) for c in x.T.astype(np.float64)]) for d in drawn.T]
    assert np.corrcoef(found.draws, exact)[0, 1] > 0.9
    of_latents = np.nanstd(found.latents["monosemanticity"]) / 2  # of 4
    assert found.draws.std() == pytest.approx(np.hypot(np.std(exact), of_latents), rel=0.2)


@pytest.mark.parametrize("fires", [0.01, 0.05])
def test_intervals_hold_the_mean_over_sets_of_images_also_of_rare_latents(fires):
    """Resamples of images alone hold it in a third of the sets where latents fire on two images each."""
    drawn, values, ends = draws(200, 200), [], []
    centres = np.random.default_rng(9).normal(size=(4, 6))
    for world in range(60):
        rng = np.random.default_rng(world)
        kind = rng.integers(0, 4, 200)
        fire = rng.random((200, 60)) < np.where(kind[:, None] == np.arange(60) % 4, 2 * fires, fires / 2)
        codes = planted((fire * rng.exponential(size=(200, 60))).astype(np.float32))
        found = monosemanticity(codes, centres[kind] + rng.normal(0, 0.7, (200, 6)), drawn)
        values.append(found.value)
        ends.append(interval(found.draws, found.value))
    low, high = np.transpose(ends)
    assert ((low <= np.mean(values)) & (np.mean(values) <= high)).mean() >= 0.85


def test_embeddings_that_are_zero_are_refused():
    with pytest.raises(ValueError, match="some are zero"):
        monosemanticity(planted(np.ones((4, 2))), np.zeros((4, 3)))
