"""The counts of one split's tokens for all (latent, class) pairs, and of a few latents as columns.

Codes are counted in bins of float32 values with the same sign, exponent and leading bits of the mantissa. The bits of a float32,
with the sign folded in, are an integer in the order of the values. Dropping its last s bits leaves 2^(23 - s) bins per octave;
with s = 0 every float has a bin. Scaling by a power of two does not change the bins.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from saev.ops.sparse import SparseCodes
from saev.probing.counts import segments

MANTISSA = 23  # bits of a float32


def ordered(values: Float[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Integers in the order of the values (as float32): negative for negative ones, -1 - ordered(x) for -x.

    >>> ordered(torch.tensor([-1.0, -1e-45, 0.0, 1e-45, 1.0])).tolist()
    [-1065353217, -2, 0, 1, 1065353216]
    """
    bits = values.float().contiguous().view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def floats(integers: Int64[Tensor, " n"]) -> Float32[Tensor, " n"]:
    """The inverse of `ordered`."""
    return (integers ^ ((integers >> 31) & 0x7FFFFFFF)).int().view(torch.float32)


def lower_edges(keys: Int64[Tensor, " n"], mantissa_bits: int) -> Float64[Tensor, " n"]:
    """The smallest non-zero number of each bin: a value lies in the bin or above exactly if it is >= the edge."""
    lowest = keys << (MANTISSA - mantissa_bits)
    return floats(torch.where(keys == 0, 1, lowest)).double()


def checked(mantissa_bits: int) -> int:
    """ValueError unless it is a number of bits that a float32's mantissa has."""
    if not 0 <= mantissa_bits <= MANTISSA:
        raise ValueError(
            f"mantissa_bits={mantissa_bits}: choose 0 (octaves) to {MANTISSA} (every float32 a bin of its own)."
        )
    return mantissa_bits


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """Two sorted lists and a matrix: groups (latent, value bin) of non-zero codes, joint counts (group, class), and p1.

    Codes of 0 are in no group: their counts follow from n_tokens, positives and the groups. Void tokens are not counted at all.
    A token has any number of classes, usually one.
    """

    n_tokens: int
    """All tokens but void ones."""
    positives: Int64[Tensor, " classes"]
    """Tokens of each class."""
    n_latents: int
    latent: Int64[Tensor, " groups"]
    """Groups are sorted by (latent, key): ascending values."""
    key: Int64[Tensor, " groups"]
    """The bin: `bins.ordered(value) >> (23 - mantissa_bits)`, negative for negative codes."""
    count: Int64[Tensor, " groups"]
    """Tokens of the group, at least 1."""
    total: Float64[Tensor, " groups"]
    """Sum of their values."""
    squares: Float64[Tensor, " groups"]
    """Sum of their squared values."""
    mantissa_bits: int
    """Width of the bins; 23: every float32 value has a bin."""
    group: Int64[Tensor, " entries"]
    """Joint counts are sorted by (group, label), without zeros."""
    label: Int64[Tensor, " entries"]
    joint: Int64[Tensor, " entries"]
    """Tokens of the group and class."""
    p1: Float64[Tensor, "latents classes"]
    """Sum of values over the tokens of the class."""

    @property
    def n_classes(self) -> int:
        return len(self.positives)

    @cached_property
    def firings(self) -> Int64[Tensor, " latents"]:
        """Tokens on which each latent is non-zero."""
        return segments.scatter_sum(self.count, self.latent, self.n_latents)

    @cached_property
    def p0(self) -> Int64[Tensor, "latents classes"]:
        """The same by class."""
        pair = self.latent[self.group] * self.n_classes + self.label
        return segments.scatter_sum(self.joint, pair, self.n_latents * self.n_classes).view(-1, self.n_classes)

    @cached_property
    def edges(self) -> Float64[Tensor, " groups"]:
        """The smallest code of each group's bin: code >= edge selects the groups from this one up."""
        return lower_edges(self.key, self.mantissa_bits)

    def groups(self, block: slice) -> "LabelTable":
        """The table of some groups, for their values: joint counts and p1 are unchanged."""
        columns = ("latent", "key", "count", "total", "squares")
        return dataclasses.replace(self, **{name: getattr(self, name)[block] for name in columns})

    def select(self, latents: Int64[Tensor, " chosen"]) -> "LabelTable":
        """The table of some latents, renumbered in the given order."""
        groups, sizes = self._ranges(self.latent, latents)
        entries, joint_sizes = self._ranges(self.group, groups)
        index = torch.arange(len(groups), device=groups.device)
        return dataclasses.replace(
            self,
            n_latents=len(latents),
            latent=torch.repeat_interleave(sizes),
            key=self.key[groups],
            count=self.count[groups],
            total=self.total[groups],
            squares=self.squares[groups],
            group=torch.repeat_interleave(index, joint_sizes),
            label=self.label[entries],
            joint=self.joint[entries],
            p1=self.p1[latents],
        )

    @staticmethod
    def _ranges(sorted_ids: Int64[Tensor, " n"], ids: Int64[Tensor, " chosen"]) -> tuple[Tensor, Tensor]:
        """(indices of the elements with each id, their number per id)."""
        start = torch.searchsorted(sorted_ids, ids)
        lengths = torch.searchsorted(sorted_ids, ids, right=True) - start
        return segments.ranges(start, lengths), lengths


@dataclass(frozen=True)
class Columns:
    """Column j is `signs[j]` times the code of `latents[j]`; `of_class[c]` is the column of class c, -1 for none."""

    latents: Int64[Tensor, " columns"]
    signs: Int64[Tensor, " columns"]
    of_class: Int64[Tensor, " classes"]
    n_latents: int

    @classmethod
    def choose(cls, best: Int64[Tensor, " classes"], slope: Float64[Tensor, " classes"], n_latents: int) -> "Columns":
        """The columns of each class's latent `best` (-1: none), sign-flipped where its `slope` is negative.

        >>> best, slope = torch.tensor([4, -1, 4, 4]), torch.tensor([2.0, 0.0, -1.0, 3.0], dtype=torch.float64)
        >>> columns = Columns.choose(best, slope, 5)
        >>> columns.latents.tolist(), columns.signs.tolist(), columns.of_class.tolist()
        ([4, 4], [1, -1], [0, -1, 1, 0])
        """
        key = 2 * best + (slope < 0)
        distinct, of_class = torch.unique(key[best >= 0], return_inverse=True)
        column = torch.full_like(best, -1)
        column[best >= 0] = of_class
        return cls(distinct // 2, 1 - 2 * (distinct % 2), column, n_latents)

    def __len__(self) -> int:
        return len(self.latents)

    def select(self, codes: SparseCodes) -> SparseCodes:
        """The columns of a batch of codes."""
        n_rows, device = len(codes.offsets) - 1, codes.values.device
        row = torch.repeat_interleave(codes.offsets.diff().to(device), output_size=len(codes.latents))
        rows, columns, values = [], [], []
        for sign in (1, -1):
            column_of = torch.full((self.n_latents,), -1, device=device)
            signed = (self.signs == sign).nonzero()[:, 0]
            column_of[self.latents[signed].to(device)] = signed.to(device)
            column = column_of[codes.latents.long()]
            kept = column >= 0
            rows.append(row[kept])
            columns.append(column[kept])
            values.append(sign * codes.values[kept])
        order = torch.argsort(torch.cat(rows), stable=True)
        counts = torch.bincount(torch.cat(rows), minlength=n_rows)
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        return SparseCodes(offsets, torch.cat(columns)[order], torch.cat(values)[order])
