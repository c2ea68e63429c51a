"""Paired comparisons: against scipy, closed forms, and simulated methods that do not differ."""

import itertools

import numpy as np
import pytest
from scipy.stats import kstest, permutation_test

from saev.metrics.paired import (
    difference,
    holm,
    over_seeds,
    p_value,
    rank_scores,
    ratio_p,
    seed_groups,
    sign_flip_p,
    swapped_ratios,
    swaps,
)
from saev.metrics.ranking import average_precision
from saev.metrics.resampling import draws


def world(n_images: int, effect: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors of two methods, correlated through the images, and what both are divided by."""
    rng = np.random.default_rng(seed)
    hard, over = rng.gamma(3, 1, n_images), rng.gamma(5, 1, n_images)
    a, b = (hard + rng.normal(0, 0.5, n_images) for _ in range(2))
    return a + effect, b, over


def test_the_interval_of_no_difference_covers_0_in_about_95_percent_of_cases():
    """40 images; 400 cases: 95 % +- 3.3 %, and the percentile interval is a little narrow for so few images."""
    drawn, covered = draws(40, 400), 0
    for seed in range(400):
        a, b, over = world(40, 0.0, seed)
        of = difference(
            a.sum() / over.sum(), b.sum() / over.sum(), (a @ drawn) / (over @ drawn), (b @ drawn) / (over @ drawn)
        )
        covered += of.low <= 0 <= of.high
    assert 0.90 <= covered / 400 <= 0.98


def test_a_paired_interval_is_narrower_than_those_of_the_two_methods():
    a, b, over = world(200, 0.2, 0)
    drawn = draws(200, 1000)
    draws_a, draws_b = (x @ drawn / (over @ drawn) for x in (a, b))
    of = difference(a.sum() / over.sum(), b.sum() / over.sum(), draws_a, draws_b)
    assert of.low > 0 and of.high - of.low < 0.5 * np.ptp(np.quantile(draws_a, [0.025, 0.975]))


def test_without_draws_there_is_no_interval():
    of = difference(1.0, 0.5, np.zeros(0), np.zeros(0))
    assert of.diff == 0.5 and np.isnan([of.low, of.high]).all()


def test_p_is_uniform_where_methods_do_not_differ():
    ps = []
    for seed in range(300):
        a, b, over = world(30, 0.0, 1000 + seed)
        ps.append(ratio_p((a, over), (b, over), 200, seed))
    assert kstest(ps, "uniform").pvalue > 0.01
    assert np.mean(np.array(ps) <= 0.05) < 0.09


def test_p_of_a_ratio_is_that_of_scipy():
    """All 2^10 exchanges by scipy; ours is a sample of them."""
    a, b, over_a = world(10, 0.35, 3)
    over_b = over_a[::-1].copy()

    def statistic(x, y, axis):
        (top_x, under_x), (top_y, under_y) = ((z.real.sum(axis), z.imag.sum(axis)) for z in (x, y))
        return top_x / under_x - top_y / under_y

    exact = permutation_test(
        (a + 1j * over_a, b + 1j * over_b), statistic, permutation_type="samples", vectorized=True, n_resamples=2000
    )
    every = np.array(list(itertools.product([False, True], repeat=10))).T
    ours = swapped_ratios((a, over_a), (b, over_b), every)
    assert np.sort(ours) == pytest.approx(np.sort(exact.null_distribution))
    two_sided = np.mean(np.abs(ours) >= abs(exact.statistic) * (1 - 1e-9))
    assert ratio_p((a, over_a), (b, over_b), 20_000) == pytest.approx(two_sided, abs=0.02)


def test_sign_flips_are_those_of_scipy():
    gain = np.random.default_rng(0).normal(0.3, 1, 12)
    exact = permutation_test((gain,), np.mean, permutation_type="samples", n_resamples=5000, vectorized=True)
    assert sign_flip_p(gain, 20_000) == pytest.approx(exact.pvalue, abs=0.02)
    assert sign_flip_p(np.append(gain, np.nan), 500, 1) == sign_flip_p(gain, 500, 1)
    assert np.isnan(sign_flip_p(np.array([np.nan])))


def test_equal_methods_have_p_1_and_the_smallest_p_is_one_of_n_and_1():
    a, b, over = world(50, 5.0, 0)
    assert ratio_p((a, over), (a, over), 200) == 1
    assert ratio_p((a, over), (b, over), 199) == pytest.approx(1 / 200)
    assert np.isnan(p_value(float("nan"), np.ones(3))) and np.isnan(p_value(0.1, np.full(3, np.nan)))
    assert swaps(50, 200, 1).shape == (50, 200) and abs(swaps(500, 200).mean() - 0.5) < 0.01


def test_rounding_does_not_part_equal_differences():
    """Swapping no image, or all of them, gives the same size of difference, whatever the order of summation."""
    a, b, over = world(1, 0.1, 5)
    assert ratio_p((a, over), (b, over), 100) == 1


def test_ranks_keep_the_average_precision():
    rng = np.random.default_rng(0)
    values, positive = np.round(np.maximum(rng.normal(0, 1, 500), -0.5), 1), rng.random(500) < 0.2
    assert average_precision(rank_scores(values), positive) == pytest.approx(average_precision(values, positive))
    assert rank_scores(np.zeros(3)).tolist() == [0, 0, 0] and len(rank_scores(np.zeros(0))) == 0


def test_holm_is_the_textbook_and_leaves_out_nan():
    """With the numbers of R's p.adjust(c(.01, .02, .03, .04, .05), "holm")."""
    assert holm(np.array([0.01, 0.02, 0.03, 0.04, 0.05])) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    adjusted = holm(np.array([0.5, np.nan, 0.001, 0.9]))
    assert adjusted[[0, 2, 3]] == pytest.approx([1, 0.003, 1]) and np.isnan(adjusted[1])
    assert not len(holm(np.zeros(0))) and np.isnan(holm(np.array([np.nan]))).all()


def test_holm_keeps_the_chance_of_any_false_claim():
    ps = np.random.default_rng(0).random((2000, 20))
    assert np.mean([holm(p).min() <= 0.05 for p in ps]) == pytest.approx(0.05, abs=0.015)


def test_seeds_are_summed_up():
    assert over_seeds([1.0, 2.0, 3.0, float("nan")]) == (2.0, 1.0, 3)
    one, none = over_seeds([0.5]), over_seeds([])
    assert (one.mean, one.n) == (0.5, 1) and np.isnan(one.std)
    assert none.n == 0 and np.isnan(none.mean)
    rows = [{"sae": "topk", "lr": None, "seed": seed, "k": k} for k in (8, 16) for seed in (0, 1)]
    assert seed_groups(rows).tolist() == [0, 0, 1, 1] and not len(seed_groups([]))
