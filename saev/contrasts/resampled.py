"""Bootstrap intervals of the difference between two groups' mean codes, of all latents."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from saev.contrasts.ranks import Entries, summed
from saev.contrasts.sides import Sides
from saev.metrics.resampling import MIN_IMAGES, draws


class Drawn(NamedTuple):
    """How much each resample of a pair weighs the codes of its clusters in the difference of means."""

    weight: Float32[np.ndarray, "n clusters"]  # times drawn / images of the resample's group; negative in group b
    enough: bool  # whether both groups have clusters enough for an interval


def resamples(sides: Sides, n: int, seed: int) -> Drawn:
    """`n` resamples of the clusters, drawn with replacement within each group."""
    weight = np.zeros((n, len(sides.cluster_is_a)), np.float32)
    size, enough = sides.images.sum(1), n > 0
    for offset, (group, sign) in enumerate(((sides.cluster_is_a, 1), (~sides.cluster_is_a, -1))):
        members = np.flatnonzero(group)
        drawn = draws(len(members), n, 2 * seed + offset).T
        weight[:, members] = sign * drawn / (drawn @ size[members])[:, None]
        enough = enough and len(members) >= MIN_IMAGES
    return Drawn(weight, enough)


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
