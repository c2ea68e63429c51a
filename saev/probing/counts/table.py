"""The counts of one split's tokens for all (latent, class) pairs, as one sparse table."""

import dataclasses
from functools import cached_property

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from saev.probing.counts import segments
from saev.probing.counts.bins import lower_edges


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
