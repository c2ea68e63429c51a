"""Resamples of images, drawn with replacement, and the intervals of numbers computed from them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

MIN_IMAGES = 5  # an interval from fewer says little of other images


class Interval(NamedTuple):
    """Percentiles of the resamples."""

    low: float
    high: float


def draws(n_images: int, n: int, seed: int = 0) -> Int64[np.ndarray, "images n"]:
    """How often each resample has each image."""
    rng = np.random.default_rng(seed)
    return np.ascontiguousarray(rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=n).T)


def interval(values: Float64[np.ndarray, " n"], estimate: float, level: float = 0.95) -> Interval:
    """The middle `level` of the finite values, shifted so that their mean is `estimate`, which it always holds; NaN where no value is
    finite.

    Resamples have fewer different images, which are easier to rank: the shift removes the bias of their mean.
    """
    values = values[np.isfinite(values)]
    if len(values) == 0 or not np.isfinite(estimate):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) + (estimate - values.mean())
    return Interval(float(min(low, estimate)), float(max(high, estimate)))


def ratio_interval(
    numerator: Float64[np.ndarray, " images"],
    denominator: Float64[np.ndarray, " images"],
    estimate: float,
    n: int,
    seed: int = 0,
) -> Interval:
    """The 95 % interval of a ratio of sums over images, from `n` resamples of the images; NaN for fewer than MIN_IMAGES."""
    if len(numerator) < MIN_IMAGES:
        return Interval(float("nan"), float("nan"))
    drawn = draws(len(numerator), n, seed)
    return interval((numerator @ drawn) / (denominator @ drawn), estimate)
