"""(latent, value bin, class) packed into 63 bits, so that plain integer sorts group them.

    key = latent | the value's 32 ordered bits | class code     class code = 2 c      the first class of a token
                                                                             2 c + 1  a further class of the same token
                                                                             2 C      a token of no class

Codes 2 c and 2 C count tokens, codes 2 c and 2 c + 1 count (token, class) pairs. The value's bits beyond the bin are 0 in an
entry; in a pair that is not counted yet they hold the exact value. While pairs are sorted these bits stand last, so that equal
(latent, bin, class code) are adjacent and values need not be permuted separately.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from saev.ops import ordering
from saev.probing.counts import segments
from saev.probing.counts.table import MANTISSA, LabelTable, floats, ordered

Labels = Int[Tensor, " tokens"] | Bool[Tensor, "tokens classes"]


def labelled_tokens(labels: Labels, counted: Bool[Tensor, " tokens"] | None) -> Bool[Tensor, " tokens"]:
    """The tokens with a label >= 0 and, where `counted` is given, that."""
    known = labels >= 0 if labels.ndim == 1 else labels.new_ones(len(labels))
    return known if counted is None else known & counted.to(known.device)


def class_codes(
    labels: Labels, known: Bool[Tensor, " tokens"], n_classes: int
) -> tuple[Int64[Tensor, " slots"], Int64[Tensor, " slots"]]:
    """Token and class code of each class of the known tokens; code 2 * n_classes for a known token without classes.

    A class number n_classes says that the token has another class. ValueError for greater ones.

    >>> labels = torch.tensor([[True, False], [False, False], [True, True]])
    >>> class_codes(labels, torch.tensor([True, True, True]), 2)  # class 0; none; class 0 and, further, class 1
    (tensor([0, 1, 2, 2]), tensor([0, 4, 0, 3]))
    """
    if labels.ndim == 1:
        token = segments.nonzero(known)
        classes = labels[token].long()
        if len(classes) and int(classes.max()) > n_classes:
            raise ValueError(
                f"label {int(classes.max())} with n_classes={n_classes}: labels are 0 to {n_classes - 1}, {n_classes} for tokens of "
                "other classes, and negative for tokens to leave out (65535, void on disk, must be made -1)."
            )
        return token, 2 * classes
    if labels.shape[1] != n_classes:
        raise ValueError(f"labels have {labels.shape[1]} classes, these statistics n_classes={n_classes}.")
    token, classes = (labels & known[:, None]).nonzero(as_tuple=True)
    further = torch.zeros_like(token, dtype=torch.bool)
    torch.eq(token[1:], token[:-1], out=further[1:])
    none = segments.nonzero(known & ~labels.any(1))
    token = torch.cat([token, none])
    slots = torch.cat([2 * classes + further, torch.full_like(none, 2 * n_classes)])
    by_token = ordering.order(token)
    return token[by_token], slots[by_token]


_HALF = 1 << 31  # makes ordered values unsigned


class Entries(NamedTuple):
    """Distinct keys in ascending order, each with the number of its pairs, the sum of their values and of their squares."""

    keys: Int64[Tensor, " n"]
    counts: Int64[Tensor, " n"]
    totals: Float64[Tensor, " n"]
    squares: Float64[Tensor, " n"]

    def at(self, block: slice) -> "Entries":
        """The entries of a slice."""
        return Entries(*(column[block] for column in self))


@dataclasses.dataclass(frozen=True)
class Packing:
    """Packs (latent, value, class code) into an integer. ValueError where it does not fit."""

    n_latents: int
    n_classes: int

    def __post_init__(self):
        if min(self.n_latents, self.n_classes) < 1:
            raise ValueError(f"n_latents={self.n_latents}, n_classes={self.n_classes}: both must be at least 1.")
        needed = (self.n_latents - 1).bit_length() + 32 + self.code_bits
        if needed > 63:
            raise ValueError(
                f"n_latents={self.n_latents} with n_classes={self.n_classes} need {needed} bits of 63: probe fewer "
                "latents at a time, or merge classes."
            )

    @property
    def code_bits(self) -> int:
        return (2 * self.n_classes).bit_length()

    def pack(self, latents: Int[Tensor, " n"], values: Float[Tensor, " n"], class_code: Int64[Tensor, " n"]) -> Tensor:
        """Keys of single pairs."""
        high = (latents.long() << 32) + (ordered(values) + _HALF)
        return (high << self.code_bits) | class_code

    def sorted(self, pairs: Sequence[Int64[Tensor, " _"]], mantissa_bits: int) -> Int64[Tensor, " n"]:
        """Single pairs in the order of their entries, with the bits beyond the bin moved to the end."""
        blocks = (block for part in pairs for block in part.split(segments.block_size(part)))
        return segments.sort_(torch.cat([self._sortable(block, MANTISSA - mantissa_bits) for block in blocks]))

    def merged(self, pairs: Int64[Tensor, " n"], parts: Sequence[Entries], mantissa_bits: int) -> Entries:
        """Merge sorted pairs and lists of entries into one list, in bins of that width or the wider ones they have."""
        spare = MANTISSA - mantissa_bits
        merged = []
        for of_pairs, *of_parts in segments.aligned_blocks(
            [pairs, *(part.keys for part in parts)], self.code_bits + spare
        ):
            new = self._runs(pairs[of_pairs], spare)
            old = [part.at(block) for part, block in zip(parts, of_parts, strict=True) if block.start < block.stop]
            merged.append(self._merged([new, *old], spare) if old else new)
        return Entries(*map(torch.cat, zip(*merged, strict=True)))

    def _sortable(self, pairs: Int64[Tensor, " n"], spare: int) -> Int64[Tensor, " n"]:
        bits = self.code_bits
        high, rest = pairs >> (bits + spare), (pairs >> bits) & ((1 << spare) - 1)
        return (((high << bits) | (pairs & ((1 << bits) - 1))) << spare) | rest

    def _runs(self, sortable: Int64[Tensor, " n"], spare: int) -> Entries:
        """Entries of sorted pairs."""
        bits = self.code_bits
        keys, rest = sortable >> spare, sortable & ((1 << spare) - 1)
        values = floats(((((keys >> bits) << spare) | rest) & 0xFFFFFFFF) - _HALF).double()
        starts = segments.segment_starts(keys)
        first = segments.index_select(keys, starts)
        return Entries(
            keys=((first >> bits) << (bits + spare)) | (first & ((1 << bits) - 1)),
            counts=segments.segment_lengths(starts, len(keys)),
            totals=segments.segment_sums(values, starts),
            squares=segments.segment_sums(values.square(), starts),
        )

    def _merged(self, parts: Sequence[Entries], spare: int) -> Entries:
        """One list of several lists of entries."""
        keys, *columns = Entries(*map(torch.cat, zip(*parts, strict=True)))
        keys = keys & ~(((1 << spare) - 1) << self.code_bits)
        by_key = ordering.order(keys)
        keys = segments.index_select(keys, by_key)
        starts = segments.segment_starts(keys)
        segment = torch.empty_like(by_key).scatter_(0, by_key, segments.segment_ids(starts, len(keys)))
        sums = (segments.scatter_sum(column, segment, len(starts)) for column in columns)
        return Entries(segments.index_select(keys, starts), *sums)

    def table(self, entries: Entries, mantissa_bits: int, n_tokens: int, positives: Int64[Tensor, " c"]) -> LabelTable:
        """Groups and joint counts of merged entries."""
        groups, joint, before = [], [], 0
        p1 = entries.totals.new_zeros(self.n_latents, self.n_classes)
        for (block,) in segments.aligned_blocks([entries.keys], self.code_bits):
            keys, counts, totals, squares = entries.at(block)
            bins, class_code = keys >> self.code_bits, keys & ((1 << self.code_bits) - 1)
            starts = segments.segment_starts(bins)
            first, of_tokens = segments.index_select(bins, starts), 1 - (class_code & 1)
            sums = [segments.segment_sums(column * of_tokens, starts) for column in (counts, totals, squares)]
            groups.append((first >> 32, ((first & 0xFFFFFFFF) - _HALF) >> (MANTISSA - mantissa_bits), *sums))

            labelled = segments.nonzero(class_code < 2 * self.n_classes)
            columns = bins >> 32, segments.segment_ids(starts, len(bins)) + before, class_code >> 1, counts, totals
            latent, group, label, counts, totals = (segments.index_select(column, labelled) for column in columns)
            p1.view(-1).index_add_(0, latent * self.n_classes + label, totals)
            pairs = segments.segment_starts(group * self.n_classes + label)  # a first and a further class are adjacent
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
