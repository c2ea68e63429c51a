"""Permutation tests of all latents: the groups of clusters are permuted, among those of about as many images in each stratum.

The statistic is the sum over group a of ranks within strata (Mann-Whitney; with strata van Elteren), standardised by its mean
and variance over all permutations of the clusters, which have a closed form. So z is the Mann-Whitney z with tie correction where
each image is a cluster, and allows for images of one specimen that are alike where they are not.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.stats import false_discovery_control, norm

from saev.contrasts.sides import Sides

TOLERANCE = 1e-4  # of float32 sums: a permuted z that is so close to the observed one counts as equal to it
VARIANCE = 1e-12  # of rounding


class Permutations(NamedTuple):
    """What a pair's permutations say of each latent."""

    p_family: Float64[np.ndarray, " latents"]  # of the largest |z| of all latents; two-sided
    p: Float64[np.ndarray, " latents"]  # of the latent's alone; at least 1 / (permutations + 1)
    q: Float64[np.ndarray, " latents"]  # Benjamini-Hochberg
    threshold: float  # the |z| above which p_family is at most alpha (0.05: the 95th percentile of the maxima)


def standardised(
    sums: Float64[np.ndarray, "latents clusters"], sides: Sides
) -> Float64[np.ndarray, "latents clusters"]:
    """What each cluster adds to z when it is in group a; 0 for all clusters of a latent with equal codes."""
    out, variance = np.zeros_like(sums), np.zeros(len(sums))
    for members in exchangeable(sides):
        m, k = len(members), np.count_nonzero(sides.cluster_is_a[members])
        if 0 < k < m:
            centred = sums[:, members] - sums[:, members].mean(1, keepdims=True)
            out[:, members] = centred
            variance += k * (m - k) / (m * (m - 1)) * (centred**2).sum(1)
    out /= np.sqrt(np.where(variance > VARIANCE, variance, np.inf))[:, None]
    return out


def exchangeable(sides: Sides) -> list[Int64[np.ndarray, " members"]]:
    """The clusters that may be exchanged for each other."""
    return [np.flatnonzero(sides.exchangeable == number) for number in range(sides.exchangeable.max() + 1)]


def training_z(
    sums: Float64[np.ndarray, "latents clusters"], sides: Sides, fold: Int64[np.ndarray, " clusters"], n_folds: int
) -> Float64[np.ndarray, "latents folds"]:
    """z of each latent among the clusters outside each fold; ranks are those among all images, whatever their group."""
    inside = (fold[:, None] != np.arange(n_folds)).astype(np.float64)
    total, variance = np.zeros((2, len(sums), n_folds))
    for members in exchangeable(sides):
        values, training = sums[:, members], inside[members]
        in_a = training * sides.cluster_is_a[members, None]
        m, k = training.sum(0), in_a.sum(0)
        both = (k > 0) & (k < m)
        mean = values @ training / np.maximum(m, 1)
        total += np.where(both, values @ in_a - k * mean, 0)
        factor = np.where(both, k * (m - k) / np.maximum(m * (m - 1), 1), 0)
        variance += factor * (values**2 @ training - m * mean**2)
    return total / np.sqrt(np.where(variance > VARIANCE, variance, np.inf))


def z_scores(parts: Float64[np.ndarray, "latents clusters"], sides: Sides) -> Float64[np.ndarray, " latents"]:
    """z of each latent: positive where group a ranks higher; 0 where all codes are equal."""
    return parts @ sides.cluster_is_a


def permuted_labels(sides: Sides, n: int, seed: int) -> Float32[np.ndarray, "n clusters"]:
    """1 for the clusters that a permutation puts in group a."""
    rng = np.random.default_rng(seed)
    labels = np.empty((n, len(sides.cluster_is_a)), np.float32)
    for members in exchangeable(sides):
        labels[:, members] = rng.permuted(np.tile(sides.cluster_is_a[members].astype(np.float32), (n, 1)), axis=1)
    return labels


def permuted_z(
    parts: Float64[np.ndarray, "latents clusters"],
    z: Float64[np.ndarray, " latents"],
    labels: Float32[np.ndarray, "n clusters"],
) -> tuple[Float32[np.ndarray, " n"], Int64[np.ndarray, " latents"]]:
    """(the largest |z| over these latents in each permutation, in how many of them each latent's |z| reaches the observed one)."""
    permuted = parts.astype(np.float32) @ labels.T
    np.abs(permuted, out=permuted)
    reached = np.count_nonzero(permuted >= (np.abs(z) - TOLERANCE).astype(np.float32)[:, None], axis=1)
    return permuted.max(0, initial=0), reached


def permutations(
    z: Float64[np.ndarray, " latents"],
    maxima: Float32[np.ndarray, " n"],
    reached: Int64[np.ndarray, " latents"],
    varies: Bool[np.ndarray, " latents"],
    alpha: float = 0.05,
) -> Permutations:
    """The p-values of all latents of a pair: (1 + permutations that reach |z|) / (1 + permutations).

    q is of the two-sided normal p of z: of n permutations no p is below 1 / (n + 1), and with 16,384 latents and n = 1,000 no q
    would be below 0.05 unless 327 latents separate the groups. It is over the latents whose codes vary; 1 for the others.
    """
    n, ordered = len(maxima), np.sort(maxima)
    p_family = (1 + n - np.searchsorted(ordered, (np.abs(z) - TOLERANCE).astype(np.float32))) / (1 + n)
    q = np.ones(len(z))
    if varies.any():
        q[varies] = false_discovery_control(2 * norm.sf(np.abs(z[varies])))
    allowed = int(alpha * (n + 1) + 1e-9) - 1  # permutations that may reach |z|
    threshold = float(ordered[n - 1 - allowed]) if 0 <= allowed < n else float("nan")
    return Permutations(p_family, (1 + reached) / (1 + n), q, threshold)
