"""Latents over several pairs: one that separates every pair (species) apart from one that separates a single pair."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from saev.contrasts.statistics import PairStatistics


def across_pairs(
    statistics: Sequence[PairStatistics], alpha: float = 0.05
) -> dict[str, Int64[np.ndarray, " latents"] | Float64[np.ndarray, " latents"]]:
    """Columns of each latent over the pairs.

    higher_a, higher_b: the number of pairs that it separates (p_family at most alpha) by higher codes of that group. separated:
    the larger of the two, the pairs separated in the same direction. smallest_d, median_d: of |d| over the pairs, where d has the
    sign of most pairs' (a pair with the other sign counts as 0): the gap of means in standard deviations that all pairs, or
    half of them, reach; infinite where the codes of both groups are constant and differ.
    """
    z, p, d, difference = (
        np.stack([one.columns[name] for one in statistics]) for name in ("z", "p_family", "d", "difference")
    )
    higher_a, higher_b = (((p <= alpha) & side).sum(0).astype(np.int64) for side in (z > 0, z < 0))
    gap = np.where(np.isnan(d), np.where(difference == 0, 0.0, np.copysign(np.inf, difference)), d)
    sign = np.where((gap > 0).sum(0) >= (gap < 0).sum(0), 1, -1)
    aligned = np.maximum(gap * sign, 0)
    return {
        "higher_a": higher_a,
        "higher_b": higher_b,
        "separated": np.maximum(higher_a, higher_b),
        "smallest_d": aligned.min(0),
        "median_d": np.quantile(aligned, 0.5, axis=0, method="lower"),
    }
