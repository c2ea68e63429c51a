"""Bootstrap intervals of the difference between two groups' mean codes, of all latents."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from saev.contrasts.ranks import Entries, summed
from saev.contrasts.sides import Sides
from saev.metrics.resampling import MIN_IMAGES, draws


class Drawn(NamedTuple):
    """How much each resample of a pair weighs the codes of its clusters in the difference of means."""

    weight: Float32[np.ndarray, "n clusters"]  # times drawn / images of the resample's group; negative in group b
    enough: bool  # whether both groups have clusters enough for an interval


def drawn_clusters(sides: Sides, n: int, seed: int) -> Int64[np.ndarray, "n clusters"]:
    """How often each of `n` resamples has each cluster; clusters are drawn with replacement within each group."""
    drawn = np.zeros((n, len(sides.cluster_is_a)), np.int64)
    for offset, group in enumerate((sides.cluster_is_a, ~sides.cluster_is_a)):
        drawn[:, group] = draws(int(np.count_nonzero(group)), n, 2 * seed + offset).T
    return drawn


def enough(sides: Sides) -> bool:
    """Whether both groups have clusters enough for an interval."""
    return bool(np.bincount(sides.cluster_is_a).min() >= MIN_IMAGES)


def resamples(sides: Sides, n: int, seed: int) -> Drawn:
    """`n` resamples of the clusters."""
    weight = drawn_clusters(sides, n, seed).astype(np.float32)
    for group, sign in ((sides.cluster_is_a, 1), (~sides.cluster_is_a, -1)):
        images = weight @ np.where(group, sign * sides.images.sum(1), 0).astype(np.float32)
        weight[:, group] /= images[:, None]
    return Drawn(weight, n > 0 and enough(sides))


def difference_interval(
    entries: Entries, sides: Sides, drawn: Drawn, difference: Float64[np.ndarray, " latents"]
) -> dict[str, Float64[np.ndarray, " latents"]]:
    """difference_low, difference_high: 95 % percentiles of the difference of means, shifted as saev.metrics.resampling does.

    NaN where a group has fewer than MIN_IMAGES clusters.
    """
    bounds = np.full((2, entries.n_latents), np.nan)
    if drawn.enough:
        shape = entries.n_latents, len(sides.cluster_is_a)
        sums = summed(entries.latent, sides.cluster[entries.position], entries.value, shape)
        resampled = sums.astype(np.float32) @ drawn.weight.T
        shift = difference - resampled.mean(1, dtype=np.float64)
        bounds = np.quantile(resampled, [0.025, 0.975], axis=1) + shift
    return {"difference_low": bounds[0].astype(np.float64), "difference_high": bounds[1].astype(np.float64)}
