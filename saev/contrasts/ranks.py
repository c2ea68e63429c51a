"""Ranks of pooled codes within a pair of groups and its strata, from one global sort of each latent.

A subset of the images keeps the order. Silent images (code 0) are one group of ties at the end and are not stored: ranks are
stored as the difference from theirs.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from saev.contrasts.sides import Sides
from saev.scoring.ranking import Ranking


class Entries(NamedTuple):
    """The stored codes of the images of a pair, each latent's in descending order; all other images are silent."""

    latent: Int64[np.ndarray, " entries"]  # ascending, from 0
    position: Int64[np.ndarray, " entries"]  # of the image in the pair
    value: Float[np.ndarray, " entries"]
    tie: Int64[np.ndarray, " entries"]  # ascending; equal for ties
    n_latents: int

    def kept(self, mask: Bool[np.ndarray, " entries"]) -> "Entries":
        """Some of the entries."""
        at = np.flatnonzero(mask)
        return Entries(self.latent[at], self.position[at], self.value[at], self.tie[at], self.n_latents)


class Ranks(NamedTuple):
    """Midranks of ascending codes within each stratum, from 1."""

    above: Float64[np.ndarray, " entries"]  # of each entry, less the rank of silent images of its stratum
    silent: Float64[np.ndarray, "latents strata"]


def entries_of(ranking: Ranking, position: Int64[np.ndarray, " rows"]) -> Entries:
    """The entries of a pair; `position` is that of each row of the scores, -1 where a row is not in the pair."""
    of_row = position[ranking.unit]
    at = np.flatnonzero(of_row >= 0)
    return Entries(ranking.prototype[at], of_row[at], ranking.value[at], ranking.group[at], ranking.n_prototypes)


def ranks_of(entries: Entries, sides: Sides) -> Ranks:
    """The midranks within the strata of a pair."""
    n = sides.images.sum(0)
    segment = entries.latent * len(n) + sides.stratum[entries.position]  # a latent's entries in one stratum
    order = slice(None) if len(n) == 1 else np.argsort(segment, kind="stable")
    segment, tie = segment[order], entries.tie[order]
    stored = np.bincount(segment, minlength=entries.n_latents * len(n))
    starts = np.flatnonzero((np.diff(tie, prepend=-1) != 0) | (np.diff(segment, prepend=-1) != 0))  # groups of ties
    size = np.diff(starts, append=len(tie))
    first = np.cumsum(stored) - stored
    from_top = starts - first[segment[starts]] + (size + 1) / 2
    silent_rank = (n - stored.reshape(-1, len(n)) + 1) / 2
    above = np.empty(len(segment))
    above[order] = np.repeat((n + 1)[segment[starts] % len(n)] - from_top - silent_rank.ravel()[segment[starts]], size)
    return Ranks(above, silent_rank)


def cluster_sums(entries: Entries, ranks: Ranks, sides: Sides) -> Float64[np.ndarray, "latents clusters"]:
    """The sums over the images of each cluster of (rank - mean rank of the stratum) x the stratum's weight."""
    centre = (sides.images.sum(0) + 1) / 2
    sums = (sides.weight * (ranks.silent - centre)) @ sides.images.T
    weighted = ranks.above * sides.weight[sides.stratum[entries.position]]
    return sums + summed(entries.latent, sides.cluster[entries.position], weighted, sums.shape)


def summed(
    row: Int64[np.ndarray, " n"],
    column: Int64[np.ndarray, " n"],
    values: Float[np.ndarray, " n"],
    shape: tuple[int, int],
) -> Float64[np.ndarray, "rows columns"]:
    """The sum of the values in each cell of a table."""
    return np.bincount(row * shape[1] + column, values, shape[0] * shape[1]).reshape(shape)
