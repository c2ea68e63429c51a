"""Adaptive cells of a latent's codes, narrow where there are many tokens, and the two Gauss points of a cell."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from saev.probing.counts import segments
from saev.probing.counts.bins import MANTISSA
from saev.probing.counts.table import LabelTable

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


def bin_moments(
    count: Float64[Tensor, " n"], total: Float64[Tensor, " n"], squares: Float64[Tensor, " n"]
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
    """(mean, variance) of the values of each bin."""
    mean = total / count
    variance = squares / count - mean.square()
    variance.masked_fill_((count <= 1) | (variance <= 1e-15 * mean.square()), 0)  # less is rounding
    return mean, variance


def gauss_points(
    weight: Float64[Tensor, "*cells"],
    mean: Float64[Tensor, "*cells"],
    std: Float64[Tensor, "*cells"],
    skew: Float64[Tensor, "*cells"],
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
