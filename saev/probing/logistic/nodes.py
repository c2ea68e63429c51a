"""Quadrature nodes: the distribution of each latent's codes over all tokens, as a few weighted points.

    table ──▶ bins grouped into cells, narrow where there are many tokens ──▶ two Gauss nodes per cell, one for the zeros

The two nodes of a cell have its count, mean, variance and third moment, so that the error of the sum of a smooth function over
its tokens is a fourth derivative times the fourth power of the cell's width. A cell with one or two distinct values is exact.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from saev.ops import ordering
from saev.probing.counts import segments
from saev.probing.counts.table import MANTISSA, LabelTable

Vector = Float64[Tensor, " n"]
Cells = Float64[Tensor, "*cells"]
MAX_CELLS = 64  # a cell with more than 1 / 64 of a latent's firings is halved, as long as the table has finer bins


def cell_starts(table: LabelTable, bits: int) -> Int64[Tensor, " cells"]:
    """The first group of each cell; the groups of a cell are adjacent and agree in the leading bits of their keys."""
    latent, fired = table.latent, table.firings.clamp(min=1)
    mean = segments.scatter_sum(table.total, latent, table.n_latents) / fired
    std = (segments.scatter_sum(table.squares, latent, table.n_latents) / fired - mean.square()).clamp(min=0).sqrt()

    def mean_and_width(groups: Tensor) -> tuple[Tensor, Tensor]:
        """The mean code of some groups, and the largest width of a cell there."""
        owner, total, count = (segments.index_select(column, groups) for column in (latent, table.total, table.count))
        middle = total / count
        apart = (middle - segments.index_select(mean, owner)).abs()
        return middle, torch.maximum(segments.index_select(std, owner), apart) * 2.0 ** (-bits - 1)

    # Groups whose cells may have to be halved; latent and key fit one number, as keys have 9 + 23 bits at most.
    wide = torch.arange(len(latent), device=latent.device)
    packed, count = (latent << (MANTISSA + 10)) + table.key, table.count
    first = torch.zeros(len(latent), dtype=torch.bool, device=latent.device)
    for drop in range(table.mantissa_bits - bits, -1, -1):
        starts = segments.segment_starts(packed >> drop)
        low = wide[starts]
        first[low] = True
        if drop == 0:
            break
        lengths = segments.segment_lengths(starts, len(wide))
        (lowest, max_width), (highest, max_width_high) = mean_and_width(low), mean_and_width(wide[starts + lengths - 1])
        halve = segments.segment_sums(count, starts) * MAX_CELLS > fired[latent[low]]
        halve |= highest - lowest > torch.minimum(max_width, max_width_high)
        kept = segments.nonzero((halve & (lengths > 1)).repeat_interleave(lengths))
        wide, packed, count = (segments.index_select(column, kept) for column in (wide, packed, count))
    return segments.nonzero(first)


def bin_moments(count: Vector, total: Vector, squares: Vector) -> tuple[Vector, Vector]:
    """(mean, variance) of the values of each bin."""
    mean = total / count
    variance = squares / count - mean.square()
    variance.masked_fill_((count <= 1) | (variance <= 1e-15 * mean.square()), 0)  # less is rounding
    return mean, variance


def gauss_points(
    weight: Cells, mean: Cells, std: Cells, skew: Cells
) -> tuple[Float64[Tensor, "*cells 2"], Float64[Tensor, "*cells 2"]]:
    """(values, weights) of the two points with this weight, mean, standard deviation and skewness; the second weighs 0 where std
    is 0."""
    # In units of std from the mean, the points have product -1 and sum skew.
    far = skew.abs() / 2 + (1 + skew.square() / 4).sqrt()
    up = torch.where(skew >= 0, far, 1 / far)
    fraction = 1 / (1 + up.square())
    one = std == 0
    upper = torch.where(one, 0, weight * fraction)
    values = torch.stack([mean - std / up, mean + std * up], -1)
    return values, torch.stack([torch.where(one, weight, weight - upper), upper], -1)


@dataclass(frozen=True)
class Nodes:
    """Weighted points of each latent, ascending: latent l has `values[offsets[l]:offsets[l + 1]]`.

    Tokens without a code have the value 0: the weights of each latent sum to `n_tokens`.
    """

    offsets: Int64[Tensor, " latents_and_1"]
    values: Float64[Tensor, " nodes"]
    weights: Float64[Tensor, " nodes"]
    hidden: Float64[Tensor, " nodes"]
    """Bound on the error of a sum over part of the node's cell; 0 where the nodes are the codes themselves."""
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
        """(values, weights, hidden) of some latents, padded with the last value and weight 0."""
        lengths = self.lengths[latents]
        column = torch.arange(int(lengths.max()), device=latents.device)
        index = self.offsets[latents, None] + torch.minimum(column, lengths[:, None] - 1)
        values, weights, hidden = (
            segments.index_select(x, index.flatten()).view(index.shape)
            for x in (self.values, self.weights, self.hidden)
        )
        return values, weights * (column < lengths[:, None]), hidden

    def moments(self) -> tuple[Float64[Tensor, " latents"], Float64[Tensor, " latents"]]:
        """Mean and standard deviation over all tokens; std is 0 where it is within rounding of 0."""
        latent = self.latent()
        mean = segments.scatter_sum(self.weights * self.values, latent, self.n_latents) / self.n_tokens
        deviation = self.values - segments.index_select(mean, latent)
        std = (segments.scatter_sum(self.weights * deviation.square(), latent, self.n_latents) / self.n_tokens).sqrt()
        return mean, torch.where(std > 1e-13 * mean.abs(), std, 0)


def nodes(table: LabelTable, bits: int = 3) -> Nodes:
    """Two nodes per cell: bins with `bits` mantissa bits (2 ** bits per octave), halved as far as the table allows where they hold
    more than 1/64 of the latent's firings or are wide relative to their distance from the mean of the firings.

    Halving is needed for codes whose distance from 0 is large relative to their spread (dense ones).
    """
    if not 0 <= bits <= table.mantissa_bits:
        raise ValueError(f"bits={bits}: must be 0 to {table.mantissa_bits}, the mantissa bits of the table.")
    silent = (table.n_tokens - table.firings).double()
    none = torch.zeros_like(silent)
    points = [(torch.arange(table.n_latents, device=silent.device), none, silent, none)]
    for (block,) in segments.aligned_blocks([table.latent], 0):  # whole latents
        part = table.groups(block)
        count, starts = part.count.double(), cell_starts(part, bits)
        gauss = _gauss(starts, count, part.total, *bin_moments(count, part.total, part.squares))
        points.append((part.latent[starts].repeat_interleave(2), *gauss))
    owner, values, weights, hidden = map(torch.cat, zip(*points, strict=True))
    return sorted_nodes(owner, values, weights, hidden, table.n_tokens, table.n_latents)


def coarsened(fine: Nodes) -> Nodes:
    """Nodes with the same mean and variance, their number about 4 log2 of that of `fine`.

    From either end each cell has twice the nodes of the one before, so that the outermost nodes are kept: they determine the slope
    of a separable pair.
    """
    # The cells depend only on the number of nodes, which takes few different values.
    sizes, kind = fine.lengths.unique(return_inverse=True)
    of_size = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
    below = segments.ranges(torch.ones_like(sizes), sizes)
    above = (sizes + 1)[of_size] - below
    first = row_starts(of_size, torch.minimum(below, above).double().frexp().exponent, below <= above)
    n_cells = torch.bincount(of_size[first], minlength=len(sizes))
    cell = segments.ranges((n_cells.cumsum(0) - n_cells)[kind], n_cells[kind])
    owner = torch.arange(fine.n_latents, device=kind.device).repeat_interleave(n_cells[kind])
    starts = fine.offsets[owner] + below[first][cell] - 1
    total = fine.weights * fine.values
    points = _gauss(starts, fine.weights, total, total / fine.weights, torch.zeros_like(total[:1]))
    return sorted_nodes(owner.repeat_interleave(2), *points, fine.n_tokens, fine.n_latents)


def row_starts(*columns: Tensor) -> Int64[Tensor, " runs"]:
    """The first index of each stretch of equal rows."""
    first = torch.ones(len(columns[0]), dtype=torch.bool, device=columns[0].device)
    first[1:] = False
    for column in columns:
        first[1:] |= column[1:] != column[:-1]
    return segments.nonzero(first)


def _gauss(
    starts: Int64[Tensor, " cells"],
    count: Vector,
    total: Vector,
    bin_mean: Vector,
    bin_variance: Float64[Tensor, " #n"],
) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " m"], Float64[Tensor, " m"]]:
    """(value, weight, hidden) of the two points with each cell's count, mean, variance and third central moment; of the values
    within a bin only the variance is known."""
    cell = segments.segment_ids(starts, len(count))
    weight = segments.segment_sums(count, starts)
    mean = segments.segment_sums(total, starts) / weight
    deviation = bin_mean - segments.index_select(mean, cell)
    spread = bin_variance + deviation.square()
    std = (segments.segment_sums(count * spread, starts) / weight).sqrt()
    third = segments.segment_sums(count * deviation * (spread + 2 * bin_variance), starts) / weight
    skew = torch.where(std > 0, third / std**3, 0)
    points, weights = gauss_points(weight, mean, std, skew)
    # Given mean and std, the sum over a fraction q of the cell deviates from that of its mean by at most
    # weight std sqrt(q (1 - q)).
    hidden = torch.where(weight > 2, weight * std / 2, 0).repeat_interleave(2)
    return points.flatten(), weights.flatten(), hidden


def sorted_nodes(
    latent: Int64[Tensor, " n"], values: Vector, weights: Vector, hidden: Vector, n_tokens: int, n_latents: int
) -> Nodes:
    """The nodes with positive weight, sorted by latent and value."""
    kept = weights > 0
    if not bool(kept.all()):
        kept = segments.nonzero(kept)
        latent, values, weights, hidden = (segments.index_select(x, kept) for x in (latent, values, weights, hidden))
    # Nodes are sorted already, except for rounding: testing that costs a tenth of sorting.
    following = latent[1:] > latent[:-1]
    if not bool((following | ((latent[1:] == latent[:-1]) & (values[1:] >= values[:-1]))).all()):
        order = argsort_nodes(latent, values, n_latents)
        latent, values, weights, hidden = (segments.index_select(x, order) for x in (latent, values, weights, hidden))
    offsets = torch.searchsorted(latent, torch.arange(n_latents + 1, device=latent.device))
    return Nodes(offsets, values, weights, hidden, n_tokens)


def argsort_nodes(latent: Int64[Tensor, " n"], values: Vector, n_latents: int) -> Int64[Tensor, " n"]:
    """The indices that sort nodes by latent and value."""
    order = values.sort(stable=True).indices
    return segments.index_select(order, ordering.order(segments.index_select(latent, order), n_latents))
