"""Rows (latent, value bin, class) in 63 bits, so that plain integer sorts group them: what the statistics are kept as.

    key = latent | the value's 32 bits in order | slot          slot = 2 c      the first class of a token
                                                                       2 c + 1  a further class of the same token
                                                                       2 C      a token of no class

First classes and class-less tokens count tokens, all but the latter count (token, class) pairs: both come from one list.
The value's bits beyond the bin's are 0 in an entry; in a pair not yet counted they are the value itself. While those are
sorted they stand at the very end, so that equal (latent, bin, slot) are neighbours and no values need be moved along.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from saev.ops import ordering
from saev.probing.counts import segments
from saev.probing.counts.bins import MANTISSA, floats, ordered
from saev.probing.counts.table import LabelTable

_HALF = 1 << 31  # makes ordered values unsigned


class Entries(NamedTuple):
    """Distinct keys in ascending order, and of each its pairs, the sum of their values and of their squares."""

    keys: Int64[Tensor, " n"]
    counts: Int64[Tensor, " n"]
    totals: Float64[Tensor, " n"]
    squares: Float64[Tensor, " n"]

    def at(self, block: slice) -> "Entries":
        """A stretch of them."""
        return Entries(*(column[block] for column in self))


@dataclasses.dataclass(frozen=True)
class Packing:
    """How a (latent, value, slot) becomes an integer. ValueError where it does not fit."""

    n_latents: int
    n_classes: int

    def __post_init__(self):
        if min(self.n_latents, self.n_classes) < 1:
            raise ValueError(f"n_latents={self.n_latents}, n_classes={self.n_classes}: both must be at least 1.")
        needed = (self.n_latents - 1).bit_length() + 32 + self.slot_bits
        if needed > 63:
            raise ValueError(
                f"n_latents={self.n_latents} with n_classes={self.n_classes} need {needed} bits of 63: probe fewer "
                "latents at a time, or merge classes."
            )

    @property
    def slot_bits(self) -> int:
        return (2 * self.n_classes).bit_length()

    def pack(self, latents: Int[Tensor, " n"], values: Float[Tensor, " n"], slots: Int64[Tensor, " n"]) -> Tensor:
        """Keys of single pairs."""
        high = (latents.long() << 32) + (ordered(values) + _HALF)
        return (high << self.slot_bits) | slots

    def sorted(self, pairs: Sequence[Int64[Tensor, " _"]], mantissa_bits: int) -> Int64[Tensor, " n"]:
        """Single pairs in the order of their entries, the bits beyond their bins moved to the very end."""
        blocks = (block for part in pairs for block in part.split(segments.block_size(part)))
        return segments.sort_(torch.cat([self._sortable(block, MANTISSA - mantissa_bits) for block in blocks]))

    def merged(self, pairs: Int64[Tensor, " n"], parts: Sequence[Entries], mantissa_bits: int) -> Entries:
        """Sorted pairs and lists of entries as one list, in bins of that width or wider ones."""
        spare = MANTISSA - mantissa_bits
        merged = []
        for of_pairs, *of_parts in segments.aligned_blocks(
            [pairs, *(part.keys for part in parts)], self.slot_bits + spare
        ):
            new = self._runs(pairs[of_pairs], spare)
            old = [part.at(block) for part, block in zip(parts, of_parts, strict=True) if block.start < block.stop]
            merged.append(self._merged([new, *old], spare) if old else new)
        return Entries(*map(torch.cat, zip(*merged, strict=True)))

    def _sortable(self, pairs: Int64[Tensor, " n"], spare: int) -> Int64[Tensor, " n"]:
        slot = self.slot_bits
        high, rest = pairs >> (slot + spare), (pairs >> slot) & ((1 << spare) - 1)
        return (((high << slot) | (pairs & ((1 << slot) - 1))) << spare) | rest

    def _runs(self, sortable: Int64[Tensor, " n"], spare: int) -> Entries:
        """Entries of sorted pairs."""
        slot = self.slot_bits
        keys, rest = sortable >> spare, sortable & ((1 << spare) - 1)
        values = floats(((((keys >> slot) << spare) | rest) & 0xFFFFFFFF) - _HALF).double()
        starts = segments.segment_starts(keys)
        first = segments.index_select(keys, starts)
        return Entries(
            keys=((first >> slot) << (slot + spare)) | (first & ((1 << slot) - 1)),
            counts=segments.segment_lengths(starts, len(keys)),
            totals=segments.segment_sums(values, starts),
            squares=segments.segment_sums(values.square(), starts),
        )

    def _merged(self, parts: Sequence[Entries], spare: int) -> Entries:
        """One list of several short ones."""
        keys, *columns = Entries(*map(torch.cat, zip(*parts, strict=True)))
        keys = keys & ~(((1 << spare) - 1) << self.slot_bits)
        by_key = ordering.order(keys)
        keys = segments.index_select(keys, by_key)
        starts = segments.segment_starts(keys)
        run = torch.empty_like(by_key).scatter_(0, by_key, segments.segment_ids(starts, len(keys)))
        sums = (segments.scatter_sum(column, run, len(starts)) for column in columns)
        return Entries(segments.index_select(keys, starts), *sums)

    def table(self, entries: Entries, mantissa_bits: int, n_tokens: int, positives: Int64[Tensor, " c"]) -> LabelTable:
        """Groups and joint counts of merged entries."""
        groups, joint, before = [], [], 0
        p1 = entries.totals.new_zeros(self.n_latents, self.n_classes)
        for (block,) in segments.aligned_blocks([entries.keys], self.slot_bits):
            keys, counts, totals, squares = entries.at(block)
            bins, slots = keys >> self.slot_bits, keys & ((1 << self.slot_bits) - 1)
            starts = segments.segment_starts(bins)
            first, of_tokens = segments.index_select(bins, starts), 1 - (slots & 1)
            sums = [segments.segment_sums(column * of_tokens, starts) for column in (counts, totals, squares)]
            groups.append((first >> 32, ((first & 0xFFFFFFFF) - _HALF) >> (MANTISSA - mantissa_bits), *sums))

            labelled = segments.nonzero(slots < 2 * self.n_classes)
            columns = bins >> 32, segments.segment_ids(starts, len(bins)) + before, slots >> 1, counts, totals
            latent, group, label, counts, totals = (segments.index_select(column, labelled) for column in columns)
            p1.view(-1).index_add_(0, latent * self.n_classes + label, totals)
            pairs = segments.segment_starts(
                group * self.n_classes + label
            )  # a first and a further class are neighbours
            sums = segments.segment_sums(counts, pairs)
            joint.append((segments.index_select(group, pairs), segments.index_select(label, pairs), sums))
            before += len(starts)
        latent, key, count, total, squares = map(torch.cat, zip(*groups, strict=True))
        group, label, joint = map(torch.cat, zip(*joint, strict=True))
        return LabelTable(
            n_tokens=n_tokens,
            positives=positives,
            n_latents=self.n_latents,
            latent=latent,
            key=key,
            count=count,
            total=total,
            squares=squares,
            mantissa_bits=mantissa_bits,
            group=group,
            label=label,
            joint=joint,
            p1=p1,
        )
