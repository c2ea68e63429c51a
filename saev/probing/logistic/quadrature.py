"""Cells of a latent's codes, narrow where there are many tokens, and the two points that stand for the tokens of a cell."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from saev.probing.counts import segments
from saev.probing.counts.bins import MANTISSA
from saev.probing.counts.table import LabelTable

SHARE = 64  # a cell with more than one in so many of a latent's firings is halved, as long as the table has finer bins


def cells(table: LabelTable, bits: int) -> Int64[Tensor, " cells"]:
    """Where the cells begin: runs of groups that agree in as much of their keys as is left of them."""
    latent, fired = table.latent, table.firings.clamp(min=1)
    mean = segments.scatter_sum(table.total, latent, table.n_latents) / fired
    std = (segments.scatter_sum(table.squares, latent, table.n_latents) / fired - mean.square()).clamp(min=0).sqrt()

    def placed(groups: Tensor) -> tuple[Tensor, Tensor]:
        """The mean code of some groups, and how wide cells there may be."""
        owner, total, count = (segments.index_select(column, groups) for column in (latent, table.total, table.count))
        middle = total / count
        apart = (middle - segments.index_select(mean, owner)).abs()
        return middle, torch.maximum(segments.index_select(std, owner), apart) * 2.0 ** (-bits - 1)

    # Groups whose cells may have to be halved, and their places: one number, as keys have 9 + 23 bits at most.
    wide = torch.arange(len(latent), device=latent.device)
    place, count = (latent << (MANTISSA + 10)) + table.key, table.count
    first = torch.zeros(len(latent), dtype=torch.bool, device=latent.device)
    for drop in range(table.mantissa_bits - bits, -1, -1):
        starts = segments.segment_starts(place >> drop)
        low = wide[starts]
        first[low] = True
        if drop == 0:
            break
        lengths = segments.segment_lengths(starts, len(wide))
        (least, fitting), (most, fitting_there) = placed(low), placed(wide[starts + lengths - 1])
        much = segments.segment_sums(count, starts) * SHARE > fired[latent[low]]
        much |= most - least > torch.minimum(fitting, fitting_there)
        kept = segments.nonzero((much & (lengths > 1)).repeat_interleave(lengths))
        wide, place, count = (segments.index_select(column, kept) for column in (wide, place, count))
    return segments.nonzero(first)


def inner(
    count: Float64[Tensor, " n"], total: Float64[Tensor, " n"], squares: Float64[Tensor, " n"]
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
    """(mean, variance) of the values of each bin, or of whatever was summed."""
    middle = total / count
    within = squares / count - middle.square()
    within.masked_fill_((count <= 1) | (within <= 1e-15 * middle.square()), 0)  # less is rounding
    return middle, within


def gauss_points(
    weight: Float64[Tensor, "*cells"],
    mean: Float64[Tensor, "*cells"],
    std: Float64[Tensor, "*cells"],
    skew: Float64[Tensor, "*cells"],
) -> tuple[Float64[Tensor, "*cells 2"], Float64[Tensor, "*cells 2"]]:
    """(values, weights) of the two points with this weight, mean, standard deviation and skewness; where std is 0, the
    second weighs nothing."""
    # In std from the mean, the points have product -1 and sum skew.
    far = skew.abs() / 2 + (1 + skew.square() / 4).sqrt()
    up = torch.where(skew >= 0, far, 1 / far)
    share = 1 / (1 + up.square())
    one = std == 0
    upper = torch.where(one, 0, weight * share)
    values = torch.stack([mean - std / up, mean + std * up], -1)
    return values, torch.stack([torch.where(one, weight, weight - upper), upper], -1)
