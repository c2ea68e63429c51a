"""The distribution of each latent's codes over all tokens, as few weighted points as a logistic loss can tell from it.

    table ──▶ its bins in cells, narrow where there are many tokens ──▶ two Gauss nodes per cell, one for the zeros

The two nodes of a cell have its count, mean, variance and third moment, so that the sum of any smooth function over the
cell's tokens is wrong by a fourth derivative times the fourth power of the cell's width. Where a cell holds one or two
distinct values the nodes are these values.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from saev.ops import ordering
from saev.probing.counts import segments
from saev.probing.counts.table import LabelTable
from saev.probing.logistic.quadrature import cells, gauss_points, inner


@dataclass(frozen=True)
class Nodes:
    """Weighted points of each latent, ascending: latent l has `values[offsets[l]:offsets[l + 1]]`.

    Every token counts, those without a code as value 0: the weights of each latent sum to `n_tokens`.
    """

    offsets: Int64[Tensor, " latents_and_1"]
    values: Float64[Tensor, " nodes"]
    weights: Float64[Tensor, " nodes"]
    hidden: Float64[Tensor, " nodes"]
    """By how much a sum over part of the node's cell may differ from the nodes' own; 0 where these are the codes."""
    n_tokens: int

    @property
    def n_latents(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[Tensor, " latents"]:
        return self.offsets.diff()

    def latent(self) -> Int64[Tensor, " nodes"]:
        """The latent of each node."""
        return torch.repeat_interleave(torch.arange(self.n_latents, device=self.offsets.device), self.lengths)

    def padded(
        self, latents: Int64[Tensor, " l"]
    ) -> tuple[Float64[Tensor, "l widest"], Float64[Tensor, "l widest"], Float64[Tensor, "l widest"]]:
        """Values, weights and what is hidden of some latents side by side; what is missing repeats the last value with
        weight 0."""
        lengths = self.lengths[latents]
        column = torch.arange(int(lengths.max()), device=latents.device)
        place = self.offsets[latents, None] + torch.minimum(column, lengths[:, None] - 1)
        values, weights, hidden = (
            segments.index_select(x, place.flatten()).view(place.shape)
            for x in (self.values, self.weights, self.hidden)
        )
        return values, weights * (column < lengths[:, None]), hidden

    def moments(self) -> tuple[Float64[Tensor, " latents"], Float64[Tensor, " latents"]]:
        """Mean and standard deviation over all tokens; 0 where rounding cannot tell the codes apart."""
        latent = self.latent()
        mean = segments.scatter_sum(self.weights * self.values, latent, self.n_latents) / self.n_tokens
        apart = self.values - segments.index_select(mean, latent)
        std = (segments.scatter_sum(self.weights * apart.square(), latent, self.n_latents) / self.n_tokens).sqrt()
        return mean, torch.where(std > 1e-13 * mean.abs(), std, 0)


def nodes(table: LabelTable, bits: int = 3) -> Nodes:
    """Two nodes per cell. Cells are the table's bins with `bits` mantissa bits (2 ** bits to a factor of two), halved, as
    long as the table is finer, where they hold more than 1/64 of the latent's firings or are wide for their distance from
    the mean of these.

    The halving serves codes far from 0 for their spread (dense ones), where bins relative to 0 are too wide.
    """
    if not 0 <= bits <= table.mantissa_bits:
        raise ValueError(f"bits={bits}: the table has {table.mantissa_bits} mantissa bits; take 0 to that many.")
    silent = (table.n_tokens - table.firings).double()
    none = torch.zeros_like(silent)
    points = [(torch.arange(table.n_latents, device=silent.device), none, silent, none)]
    for (block,) in segments.aligned_blocks([table.latent], 0):  # whole latents
        part = table.groups(block)
        count, starts = part.count.double(), cells(part, bits)
        gauss = _gauss(starts, count, part.total, *inner(count, part.total, part.squares))
        points.append((part.latent[starts].repeat_interleave(2), *gauss))
    owner, values, weights, hidden = map(torch.cat, zip(*points, strict=True))
    return sorted_nodes(owner, values, weights, hidden, table.n_tokens, table.n_latents)


def coarsened(given: Nodes) -> Nodes:
    """Nodes with the same mean and variance, about four times the logarithm of as many.

    Cells take in twice as many nodes with each step from either end, so that the outermost stay what they are: these
    decide how steep a separable pair becomes.
    """
    # Where cells begin depends on the number of nodes alone, and of numbers there are few.
    sizes, kind = given.lengths.unique(return_inverse=True)
    of_size = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
    below = segments.ranges(torch.ones_like(sizes), sizes)
    above = (sizes + 1)[of_size] - below
    first = row_starts(of_size, torch.minimum(below, above).double().frexp().exponent, below <= above)
    n_cells = torch.bincount(of_size[first], minlength=len(sizes))
    mine = segments.ranges((n_cells.cumsum(0) - n_cells)[kind], n_cells[kind])
    owner = torch.arange(given.n_latents, device=kind.device).repeat_interleave(n_cells[kind])
    starts = given.offsets[owner] + below[first][mine] - 1
    total = given.weights * given.values
    points = _gauss(starts, given.weights, total, total / given.weights, torch.zeros_like(total[:1]))
    return sorted_nodes(owner.repeat_interleave(2), *points, given.n_tokens, given.n_latents)


def row_starts(*columns: Tensor) -> Int64[Tensor, " runs"]:
    """Where runs of equal rows begin."""
    first = torch.ones(len(columns[0]), dtype=torch.bool, device=columns[0].device)
    first[1:] = False
    for column in columns:
        first[1:] |= column[1:] != column[:-1]
    return segments.nonzero(first)


def _gauss(
    starts: Int64[Tensor, " cells"],
    count: Float64[Tensor, " n"],
    total: Float64[Tensor, " n"],
    middle: Float64[Tensor, " n"],
    within: Float64[Tensor, " #n"],
) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " m"], Float64[Tensor, " m"]]:
    """Value, weight and `hidden` of the two points with each cell's count, mean, variance and third central moment.

    Of the bins that make a cell, what is within one enters by its variance alone.
    """
    cell = segments.segment_ids(starts, len(count))
    weight = segments.segment_sums(count, starts)
    mean = segments.segment_sums(total, starts) / weight
    apart = middle - segments.index_select(mean, cell)
    spread = within + apart.square()
    std = (segments.segment_sums(count * spread, starts) / weight).sqrt()
    third = segments.segment_sums(count * apart * (spread + 2 * within), starts) / weight
    skew = torch.where(std > 0, third / std**3, 0)
    points, weights = gauss_points(weight, mean, std, skew)
    # Given mean and std, the sum over a share q of the cell is at most weight std sqrt(q (1 - q)) from its mean's.
    hidden = torch.where(weight > 2, weight * std / 2, 0).repeat_interleave(2)
    return points.flatten(), weights.flatten(), hidden


def sorted_nodes(
    latent: Int64[Tensor, " n"],
    values: Float64[Tensor, " n"],
    weights: Float64[Tensor, " n"],
    hidden: Float64[Tensor, " n"],
    n_tokens: int,
    n_latents: int,
) -> Nodes:
    """The nodes that weigh anything, in order of latent and value."""
    kept = weights > 0
    if not bool(kept.all()):
        latent, values, weights, hidden = (
            segments.index_select(x, segments.nonzero(kept)) for x in (latent, values, weights, hidden)
        )
    # Cells come in order, and so do their nodes but for rounding: to look costs a tenth of sorting.
    following = latent[1:] > latent[:-1]
    if not bool((following | ((latent[1:] == latent[:-1]) & (values[1:] >= values[:-1]))).all()):
        order = argsort_nodes(latent, values, n_latents)
        latent, values, weights, hidden = (segments.index_select(x, order) for x in (latent, values, weights, hidden))
    offsets = torch.searchsorted(latent, torch.arange(n_latents + 1, device=latent.device))
    return Nodes(offsets, values, weights, hidden, n_tokens)


def argsort_nodes(latent: Int64[Tensor, " n"], values: Float64[Tensor, " n"], n_latents: int) -> Int64[Tensor, " n"]:
    """The places of all nodes in order of latent and value."""
    order = values.sort(stable=True).indices
    return segments.index_select(order, ordering.order(segments.index_select(latent, order), n_latents))
