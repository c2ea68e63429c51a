"""The best latent of a method beside the best one of another: chosen on training folds, judged on held-out images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from saev.contrasts.resampled import drawn_clusters, enough
from saev.contrasts.sides import Sides
from saev.metrics.resampling import Interval, interval
from saev.scoring.blocks import Scores, size


class Method(NamedTuple):
    """The pooled scores of a method's prototypes, and z of each outside each fold (PairStatistics.fold_z)."""

    scores: Scores
    fold_z: Float64[np.ndarray, "latents folds"]


class Best(NamedTuple):
    """The best latents of a pair, one of each fold."""

    latent: Int64[np.ndarray, " folds"]
    auroc: float  # the mean over folds of the AUROC on the held-out images, for the group that is higher on the others
    interval: Interval  # 95 %, over resamples of the clusters; NaN where a group has few
    draws: Float64[np.ndarray, " n"]  # the AUROC in each resample


class Comparison(NamedTuple):
    """A method beside a reference, with as many prototypes."""

    n_prototypes: int
    best: Best
    reference: Best
    difference: float  # in AUROC
    interval: Interval  # of the difference, paired: the same images and resamples


def compare(
    sides: Sides,
    fold: Int64[np.ndarray, " clusters"],
    method: Method,
    reference: Method,
    n_prototypes: int | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Comparison:
    """The best latent of a method beside the best one of a reference.

    Args:
        n_prototypes: both choose among the first so many of the seed's order of their prototypes, at most those of the smaller
            method; None: as many as that has.
    """
    smaller = min(len(method.fold_z), len(reference.fold_z))
    n = min(n_prototypes or smaller, smaller)
    one, other = (best_of(sides, fold, each, n, bootstrap, seed) for each in (method, reference))
    difference = one.auroc - other.auroc
    return Comparison(n, one, other, difference, interval(one.draws - other.draws, difference))


def best_of(
    sides: Sides, fold: Int64[np.ndarray, " clusters"], method: Method, n_prototypes: int, bootstrap: int, seed: int
) -> Best:
    """The latents with the largest |z| outside each fold, among the first `n_prototypes` of the seed's order."""
    _, n_latents = size(method.scores)
    among = np.random.default_rng([seed, 0]).permutation(n_latents)[
        :n_prototypes
    ]  # as trait_evaluation.grid.Grid.order
    z = method.fold_z[among]
    latent = among[np.abs(z).argmax(0)]
    drawn = drawn_clusters(sides, bootstrap if enough(sides) else 0, seed)
    weight = np.concatenate([np.ones((1, drawn.shape[1]), np.int64), drawn])[:, sides.cluster]
    aurocs = []
    for number, j in enumerate(latent):
        at = np.flatnonzero(fold[sides.cluster] == number)
        column = method.scores[sides.rows[at], j]
        values = column if isinstance(column, np.ndarray) else column.toarray().ravel()
        area = weighted_auroc(values, sides.is_a[at], sides.stratum[at], weight[:, at])
        aurocs.append(area if method.fold_z[j, number] >= 0 else 1 - area)
    stacked = np.stack(aurocs)
    defined = np.isfinite(stacked)
    means = np.where(defined, stacked, 0).sum(0) / np.where(defined.any(0), defined.sum(0), np.nan)
    return Best(latent, float(means[0]), interval(means[1:], float(means[0])), means[1:])


def weighted_auroc(
    values: Float[np.ndarray, " images"],
    is_a: Bool[np.ndarray, " images"],
    stratum: Int64[np.ndarray, " images"],
    weight: Int64[np.ndarray, "n images"],
) -> Float64[np.ndarray, " n"]:
    """The AUROC over pairs of images of the same stratum, each image counted as often as it is drawn; NaN without pairs."""
    wins, pairs = np.zeros((2, len(weight)))
    for s in np.unique(stratum):
        at = np.flatnonzero(stratum == s)
        at = at[np.argsort(values[at], kind="stable")]
        of_a, of_b = (np.where(group, weight[:, at], 0) for group in (is_a[at], ~is_a[at]))
        starts = np.flatnonzero(np.diff(values[at], prepend=np.nan) != 0)
        size = np.diff(starts, append=len(at))
        total = np.pad(of_b.cumsum(1), ((0, 0), (1, 0)))
        below = np.repeat(total[:, starts] + total[:, starts + size], size, axis=1) / 2  # ties count half
        wins += (of_a * below).sum(1)
        pairs += of_a.sum(1) * total[:, -1]
    return wins / np.where(pairs > 0, pairs, np.nan)
