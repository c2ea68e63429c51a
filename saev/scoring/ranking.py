"""The average precision of every (prototype, trait) pair over subsets of the units, from one sort of each prototype's scores.

The expected AP over all orders of tied scores, as in metrics/ranking.py. With y the labels of a trait in the order of a
prototype's descending scores, AP = sum over positives of (positives up to it) / (known units up to it), over the positives; a
subset of the units keeps the order. Units of score 0 are not stored: they are one group of ties, in closed form.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int8, Int64
from scipy.sparse import csc_matrix

Ties = Literal["expected", "last"]


class Ranking(NamedTuple):
    """The stored scores of some prototypes, each prototype's in descending order; all other units score `rest`: 0, after these."""

    unit: Int64[np.ndarray, " entries"]
    prototype: Int64[np.ndarray, " entries"]  # ascending, from 0
    group: Int64[np.ndarray, " entries"]  # ascending; equal for ties
    n_prototypes: int
    value: Float[np.ndarray, " entries"]


def rank(scores: csc_matrix | Float[np.ndarray, "units prototypes"], start: int, stop: int) -> Ranking:
    """The ranking of prototypes start to stop. Where one of their scores is negative, every unit's is stored."""
    block = scores[:, start:stop]
    if not isinstance(block, np.ndarray) and block.nnz and block.data.min() < 0:
        block = block.toarray()
    if isinstance(block, np.ndarray):
        values, unit = block.T.ravel(), np.tile(np.arange(len(block)), stop - start)
        prototype = np.repeat(np.arange(stop - start), len(block))
        if (values >= 0).all():
            kept = np.flatnonzero(values)
            values, unit, prototype = values[kept], unit[kept], prototype[kept]
    else:
        kept = np.flatnonzero(block.data)  # a stored 0 ties with those that are not stored
        values, unit = block.data[kept], block.indices[kept].astype(np.int64)
        prototype = np.repeat(np.arange(stop - start), np.diff(block.indptr))[kept]
    order = np.lexsort((-values, prototype))
    values, unit, prototype = values[order], unit[order], prototype[order]
    new = np.diff(values, prepend=np.nan) != 0
    new |= np.diff(prototype, prepend=-1) != 0
    return Ranking(unit, prototype, np.cumsum(new), stop - start, values)


class Labels:
    """Labels of units in the form that ranking uses. `values`: 1 has the trait, 0 has it not, -1 not known.

    `ties`: the expected AP over all orders of tied scores, or, as scikit-learn has it, ties at the end of their group.
    """

    def __init__(self, values: Int8[np.ndarray, "units traits"], ties: Ties = "expected"):
        self.positive = (values == 1).astype(np.float32)
        self.known = None if (values >= 0).all() else (values >= 0).astype(np.float32)
        self.ties: Ties = ties
        self.harmonic = harmonic_numbers(len(values))

    def subset(self, mask: Bool[np.ndarray, " units"]) -> "Subset":
        """The units of the mask, with their counts."""
        positive = self.positive[mask].sum(0, dtype=np.float64)
        if self.known is None:
            return Subset(mask, positive, np.full_like(positive, np.count_nonzero(mask))[:1])
        return Subset(mask, positive, self.known[mask].sum(0, dtype=np.float64))

    def constant_ap(self, subset: "Subset") -> Float64[np.ndarray, " traits"]:
        """The AP of a score that is the same for all units: the prevalence, and in expectation over orders a little more.

        NaN for a trait without a positive.
        """
        positive, known = subset.positive[None], subset.known[None]
        sums = self.group_terms(positive, known, np.zeros_like(positive), np.zeros_like(known))[0]
        return sums / np.where(subset.positive > 0, subset.positive, np.nan)

    def group_terms(
        self,
        positives: Float[np.ndarray, "groups traits"],
        size: Float[np.ndarray, "groups traits_or_1"],
        hits: Float[np.ndarray, "groups traits"],
        above: Float[np.ndarray, "groups traits_or_1"],
    ) -> Float64[np.ndarray, "groups traits"]:
        """The sum of precisions over a group of ties, of counts; `above` units and `hits` positives rank before it."""
        if self.ties == "last":
            return np.asarray(positives, np.float64) * (hits + positives) / np.maximum(above + size, 1)
        return tie_sums(positives, size, hits, above, self.harmonic)


def tie_sums(
    positives: Float[np.ndarray, "groups traits"],
    size: Float[np.ndarray, "groups traits_or_1"],
    hits: Float[np.ndarray, "groups traits"],
    above: Float[np.ndarray, "groups traits_or_1"],
    harmonic: Float64[np.ndarray, " n"],
) -> Float64[np.ndarray, "groups traits"]:
    """The expected sum of precisions over a group of ties, of counts; `above` units and `hits` positives rank before it.

    The formula of metrics/ranking.py. Its sums over ranks are differences of tabulated `harmonic_numbers`: of 10^6 units they
    keep about nine digits, and a table is read several times as fast as the series is computed.
    """
    positives, size, hits, above = (np.asarray(count, np.float64) for count in (positives, size, hits, above))
    x = above.astype(np.int32)
    inverse = harmonic[x + size.astype(np.int32)] - harmonic[x]
    slope = (positives - 1) / np.maximum(size - 1, 1)
    return positives / np.maximum(size, 1) * ((hits + 1) * inverse + slope * (size - (above + 1) * inverse))


def harmonic_numbers(n: int) -> Float64[np.ndarray, " n_and_1"]:
    """H(0) = 0, H(1), ..., H(n)."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])


class Subset(NamedTuple):
    """Units that an AP is over, and of each trait how many have it and of how many this is known."""

    mask: Bool[np.ndarray, " units"]
    positive: Float64[np.ndarray, " traits"]
    known: Float64[np.ndarray, " traits_or_1"]  # one number where every label is known


def average_precisions(ranking: Ranking, labels: Labels, subset: Subset) -> Float64[np.ndarray, "prototypes traits"]:
    """The AP of each pair over the units of the subset; NaN for a trait without a positive there."""
    kept = np.flatnonzero(subset.mask[ranking.unit])
    unit, prototype, group = ranking.unit[kept], ranking.prototype[kept], ranking.group[kept]
    first = np.searchsorted(prototype, np.arange(ranking.n_prototypes))  # of each prototype's entries
    stop = np.append(first[1:], len(kept))
    positive = labels.positive[unit]
    hits = counted(positive, first, prototype)
    if labels.known is None:
        known = np.ones((len(unit), 1), np.float32)
        ranks = (np.arange(len(unit)) - first[prototype] + 1).astype(np.float32)[:, None]
    else:
        known = labels.known[unit]
        ranks = counted(known, first, prototype)
    terms = np.divide(positive * hits, np.maximum(ranks, 1), dtype=np.float64)
    replace_ties(terms, positive, known, hits, ranks, group, labels)
    sums, found = (np.zeros((ranking.n_prototypes, positive.shape[1])) for _ in range(2))
    stored = np.zeros((ranking.n_prototypes, known.shape[1]))
    occupied = np.flatnonzero(stop > first)
    if len(occupied):
        sums[occupied] = np.add.reduceat(terms, first[occupied], axis=0)
        found[occupied], stored[occupied] = hits[stop[occupied] - 1], ranks[stop[occupied] - 1]
    rest = labels.group_terms(subset.positive - found, subset.known - stored, found, stored)
    return (sums + rest) / np.where(subset.positive > 0, subset.positive, np.nan)


def counted(
    values: Float32[np.ndarray, "entries traits"],
    first: Int64[np.ndarray, " prototypes"],
    prototype: Int64[np.ndarray, " entries"],
) -> Float32[np.ndarray, "entries traits"]:
    """The sum of each prototype's values up to each of its entries; exact below 2^24."""
    total = np.cumsum(values, axis=0)
    if len(total):
        total -= np.where(first[:, None] > 0, total[first - 1], 0)[prototype]
    return total


def replace_ties(
    terms: Float64[np.ndarray, "entries traits"],
    positive: Float32[np.ndarray, "entries traits"],
    known: Float32[np.ndarray, "entries traits_or_1"],
    hits: Float32[np.ndarray, "entries traits"],
    ranks: Float32[np.ndarray, "entries traits_or_1"],
    group: Int64[np.ndarray, " entries"],
    labels: Labels,
) -> None:
    """Put the sum of each group of ties in place of the terms of its entries."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    ends = np.append(starts[1:], len(group)) - 1
    several = ends > starts
    starts, ends = starts[several], ends[several]
    if len(starts):
        before, above = hits[starts] - positive[starts], ranks[starts] - known[starts]
        sums = labels.group_terms(hits[ends] - before, ranks[ends] - above, before, above)
        terms[np.isin(group, group[starts])] = 0
        terms[starts] = sums
