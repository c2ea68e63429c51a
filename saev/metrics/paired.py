"""Is method A better than method B? Paired comparisons over the same images: differences, permutation tests, Holm, seeds.

Both methods have a number for the same images. Resampling images (saev.metrics.resampling) gives the interval of the difference;
exchanging the methods image by image gives p: how often methods that do not differ would differ as much.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy.stats import rankdata

from saev.metrics.resampling import interval


class Difference(NamedTuple):
    """A's number less B's, and its 95 % interval; NaN where it is not known."""

    diff: float
    low: float
    high: float


class Seeds(NamedTuple):
    """Numbers that differ by seed only. `std`: with n - 1, NaN for one seed; `n`: those that are finite."""

    mean: float
    std: float
    n: int


def difference(
    a: float, b: float, draws_a: Float64[np.ndarray, " n"], draws_b: Float64[np.ndarray, " n"]
) -> Difference:
    """a - b; the interval is the middle 95 % of the differences within resamples, shifted to a mean of a - b.

    Args:
        draws_a, draws_b: the two numbers in the same resamples of the images; with none the interval is NaN.
    """
    return Difference(float(a - b), *interval(draws_a - draws_b, float(a - b)))


def swaps(n_images: int, n: int, seed: int = 0) -> Bool[np.ndarray, "images n"]:
    """Which images exchange the two methods in each of n permutations: each with probability 1/2, independently."""
    return np.random.default_rng([seed, n_images]).random((n_images, n)) < 0.5


def p_value(observed: float, permuted: Float64[np.ndarray, " n"]) -> float:
    """Two-sided p, (1 + permutations at least as far from 0 as `observed`) / (1 + permutations); NaN without either.

    The observed arrangement counts as one of the permutations, so that p is valid and never 0 (Phipson & Smyth 2010). Differences
    that are equal but for rounding count as equal.
    """
    permuted = np.abs(permuted[np.isfinite(permuted)])
    if not len(permuted) or not np.isfinite(observed):
        return float("nan")
    return float((1 + np.count_nonzero(permuted >= abs(observed) * (1 - 1e-9) - 1e-300)) / (1 + len(permuted)))


def resampled_p(draws: Float64[np.ndarray, " n"], estimate: float) -> float:
    """Two-sided p of a difference by its resamples, shifted to a mean of `estimate` as its interval is: twice the fraction beyond 0.

    For differences of which nothing can be exchanged. NaN without finite draws; 1 for a difference of 0.
    """
    draws = draws[np.isfinite(draws)]
    if not len(draws) or not np.isfinite(estimate):
        return float("nan")
    shifted = draws - draws.mean() + estimate
    beyond = min(np.count_nonzero(shifted <= 0), np.count_nonzero(shifted >= 0))
    return 1.0 if estimate == 0 else float(min(1.0, 2 * (1 + beyond) / (1 + len(draws))))


def swapped_ratios(
    a: tuple[Float64[np.ndarray, " images"], Float64[np.ndarray, " images"]],
    b: tuple[Float64[np.ndarray, " images"], Float64[np.ndarray, " images"]],
    swapped: Bool[np.ndarray, "images n"],
) -> Float64[np.ndarray, " n"]:
    """Difference of two ratios of sums over images in each permutation: A's less B's. a, b: (numerators, denominators).

    Exchangeable under the null: the two methods' (numerator, denominator) of one image, images being independent. It holds where
    which method gave which numbers makes no difference. Means of images are ratios with denominators of 1.
    """
    ratios = []
    for one, other in ((a, b), (b, a)):
        top, bottom = (x.sum() + (y - x) @ swapped for x, y in zip(one, other, strict=True))
        ratios.append(top / np.where(bottom != 0, bottom, np.nan))
    return ratios[0] - ratios[1]


def ratio_p(
    a: tuple[Float64[np.ndarray, " images"], Float64[np.ndarray, " images"]],
    b: tuple[Float64[np.ndarray, " images"], Float64[np.ndarray, " images"]],
    n: int = 1000,
    seed: int = 0,
) -> float:
    """p of the difference of two ratios of sums over images, from n permutations (`swapped_ratios`)."""
    observed = swapped_ratios(a, b, np.zeros((len(a[0]), 1), bool))[0]
    return p_value(float(observed), swapped_ratios(a, b, swaps(len(a[0]), n, seed)))


def sign_flip_p(differences: Float64[np.ndarray, " classes"], n: int = 1000, seed: int = 0) -> float:
    """p of a mean of paired differences, one per class, from n permutations; NaN differences are left out.

    Exchangeable under the null: the sign of each class's difference, classes being independent: the differences are symmetric
    about 0. A statement about other classes, where swapping images is one about other images.
    """
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return float("nan")
    signs = 1.0 - 2 * swaps(len(differences), n, seed)
    return p_value(float(differences.mean()), differences @ signs / len(differences))


def rank_scores(values: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Scores that give the same order by rank alone: 1 / rank of positive ones, -1 / rank from the end of negative ones, 0 of 0.

    Ties share the mean of their ranks. Two methods' scores can be exchanged image by image only on one scale: ranks within each
    method (Venkatraman & Begg 1996, for ROC curves). Exchangeable under the null: the two methods' ranks of an image's tokens;
    exactly so for many images, as exchanging one image changes the others' ranks a little.

    >>> rank_scores(np.array([0.0, 5.0, -1.0, 2.0]))
    array([ 0. ,  1. , -1. ,  0.5])
    """
    scores = np.zeros(len(values))
    for sign in (1, -1):
        chosen = sign * values > 0
        scores[chosen] = sign / rankdata(-sign * values[chosen])
    return scores


def holm(p: Float64[np.ndarray, " tests"]) -> Float64[np.ndarray, " tests"]:
    """p adjusted for several tests: the chance of any false one among those below a level is at most that level (Holm 1979).

    No independence is assumed. NaN is no test and stays NaN.

    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])
    """
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN last
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted


def over_seeds(values: Sequence[float] | Float64[np.ndarray, " seeds"]) -> Seeds:
    """Mean, standard deviation and number of the finite values."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    std = finite.std(ddof=1) if len(finite) > 1 else np.nan
    return Seeds(float(finite.mean()) if len(finite) else float("nan"), float(std), len(finite))


def seed_groups(settings: Sequence[Mapping[str, Any]], apart: Sequence[str] = ("seed",)) -> Int64[np.ndarray, " rows"]:
    """The number of each row's group, from 0 in order of appearance: rows with equal settings but for those in `apart`.

    >>> seed_groups([{"k": 8, "seed": 0}, {"k": 16, "seed": 0}, {"k": 8, "seed": 1}])
    array([0, 1, 0])
    """
    keys = [repr(sorted((key, value) for key, value in row.items() if key not in apart)) for row in settings]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)
