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

from saev.probing import segments
from saev.probing.bins import MANTISSA, floats, ordered
from saev.probing.table import LabelTable

_HALF = 1 << 31  # makes ordered values unsigned


class Entries(NamedTuple):
    """Distinct keys in ascending order, and of each its pairs, the sum of their values and of their squares."""

    keys: Int64[Tensor, " n"]
    counts: Int64[Tensor, " n"]
    totals: Float64[Tensor, " n"]
    squares: Float64[Tensor, " n"]


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

    def counted(self, pairs: Int64[Tensor, " n"], mantissa_bits: int) -> Entries:
        """Entries of single pairs in any order."""
        spare, slot = MANTISSA - mantissa_bits, self.slot_bits
        high, rest = pairs >> (slot + spare), (pairs >> slot) & ((1 << spare) - 1)
        sortable = segments.ascending((((high << slot) | (pairs & ((1 << slot) - 1))) << spare) | rest)
        keys, rest = sortable >> spare, sortable & ((1 << spare) - 1)
        high = keys >> slot
        values = floats((((high & ((1 << (32 - spare)) - 1)) << spare) | rest) - _HALF).double()
        starts = segments.run_starts(keys)
        first = keys[starts]
        return Entries(
            keys=((first >> slot) << (slot + spare)) | (first & ((1 << slot) - 1)),
            counts=segments.run_lengths(starts, len(keys)),
            totals=segments.run_sums(values, starts),
            squares=segments.run_sums(values.square(), starts),
        )

    def merged(self, parts: Sequence[Entries], mantissa_bits: int) -> Entries:
        """Several lists of entries as one, in bins of that width or wider ones."""
        beyond = (1 << (MANTISSA - mantissa_bits)) - 1
        keys = torch.cat([part.keys for part in parts]) & ~(beyond << self.slot_bits)
        by_key = segments.order(keys)
        keys = keys[by_key]
        starts = segments.run_starts(keys)
        sums = (segments.run_sums(torch.cat(column)[by_key], starts) for column in list(zip(*parts, strict=True))[1:])
        return Entries(keys[starts], *sums)

    def table(self, entries: Entries, mantissa_bits: int, n_tokens: int, positives: Int64[Tensor, " c"]) -> LabelTable:
        """Groups and joint counts of merged entries."""
        spare = MANTISSA - mantissa_bits
        slots = entries.keys & ((1 << self.slot_bits) - 1)
        bins = entries.keys >> self.slot_bits
        starts = segments.run_starts(bins)
        of_tokens = (slots & 1) == 0
        first = bins[starts]

        labelled = segments.places(slots < 2 * self.n_classes)
        group = segments.run_of_each(starts, len(bins))[labelled]
        label = slots[labelled] >> 1
        pairs = segments.run_starts(group * self.n_classes + label)  # a first and a further class are neighbours
        cell = (bins[labelled] >> 32) * self.n_classes + label
        p1 = segments.scattered(entries.totals[labelled], cell, self.n_latents * self.n_classes)
        return LabelTable(
            n_tokens=n_tokens,
            positives=positives,
            n_latents=self.n_latents,
            latent=first >> 32,
            key=((first & 0xFFFFFFFF) - _HALF) >> spare,
            count=segments.run_sums(entries.counts * of_tokens, starts),
            total=segments.run_sums(entries.totals * of_tokens, starts),
            squares=segments.run_sums(entries.squares * of_tokens, starts),
            mantissa_bits=mantissa_bits,
            group=group[pairs],
            label=label[pairs],
            joint=segments.run_sums(entries.counts[labelled], pairs),
            p1=p1.view(self.n_latents, self.n_classes),
        )
