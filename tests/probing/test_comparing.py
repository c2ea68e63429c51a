"""Two dictionaries' best latents on the same tokens: exchanging ranks image by image."""

import numpy as np
import pytest
from scipy.stats import kstest

from saev.metrics.paired import p_value, rank_scores, swaps
from saev.metrics.ranking import average_precision
from saev.probing.bootstrap import ColumnCodes
from saev.probing.comparing import swapped_precisions

N_IMAGES, N_TOKENS = 20, 15
IMAGE = np.repeat(np.arange(N_IMAGES), N_TOKENS)


def codes_of(x: np.ndarray, y: np.ndarray) -> ColumnCodes:
    fired = x != 0
    return ColumnCodes(
        x[fired].astype(np.float32),
        y[fired],
        IMAGE[fired],
        np.bincount(IMAGE),
        np.bincount(IMAGE[y], minlength=N_IMAGES),
    )


def world(seed: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the codes of two latents of one quality; `noise` is that of the second."""
    rng = np.random.default_rng(seed)
    y = rng.random(IMAGE.size) < 0.2
    a, b = (np.maximum(y + rng.normal(0, s, IMAGE.size), 0) for s in (1.0, noise))
    return y, a, b


def test_exchanged_ranks_are_those_of_the_tokens():
    """Up to ties within a relative 1/64 of 1 / rank."""
    y, a, b = world(0)
    swapped = swaps(N_IMAGES, 6)
    first, second = swapped_precisions(codes_of(a, y), codes_of(b, y), swapped)
    assert [first[0], second[0]] == pytest.approx([average_precision(x, y) for x in (a, b)], abs=2e-3)
    ranks = [rank_scores(x) for x in (a, b)]
    for i in range(6):
        exchange = swapped[IMAGE, i]
        expected = [np.where(exchange, one, other) for other, one in (ranks, ranks[::-1])]
        assert [first[i + 1], second[i + 1]] == pytest.approx([average_precision(x, y) for x in expected], abs=2e-3)


def test_p_is_uniform_for_latents_of_one_quality_and_small_for_a_worse_one():
    ps = []
    for seed in range(100):
        y, a, b = world(seed)
        first, second = swapped_precisions(codes_of(a, y), codes_of(b, y), swaps(N_IMAGES, 99, seed))
        ps.append(p_value((first - second)[0], (first - second)[1:]))
    assert kstest(ps, "uniform").pvalue > 0.01
    y, a, b = world(0, 6.0)
    first, second = swapped_precisions(codes_of(a, y), codes_of(b, y), swaps(N_IMAGES, 199))
    assert first[0] > second[0] and p_value((first - second)[0], (first - second)[1:]) <= 0.02
