"""Harmonic sums over the ranks of tied scores.

Each of g tokens with equal scores, after n with higher ones, may have rank n + 1 ... n + g. With x = n + 1:

    inverse_ranks = sum_j 1 / (x + j)        offsets_over_ranks = sum_j j / (x + j)        j = 0 ... g - 1

As differences of harmonic numbers they would lose as many digits as x / g has: far down a ranking, most of them. So both are
written in u = g / x, with the cancelling terms removed analytically. With digamma's series, psi(x) = log x - 1/2x - tail(x),

    psi(x + g) - psi(x)         = log1p(u) + 1/2x * u / (1 + u) + tail(x) - tail(x + g)
    g - x (psi(x + g) - psi(x)) = x (u - log1p(u)) - 1/2 * u / (1 + u) - x (tail(x) - tail(x + g))

The series is accurate from x = 16 on; earlier ranks are summed one by one.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

SERIES_FROM = 16
_TAIL = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132)  # B_2k / 2k: relative error 7e-17 of psi(16)


def rank_sums(
    above: Int64[Tensor, " n"], size: Int64[Tensor, " n"]
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
    """(inverse_ranks, offsets_over_ranks) of groups of `size` >= 1 ties with `above` tokens before them, to about 1e-13.

    >>> inverse, offsets = rank_sums(torch.tensor([0, 2]), torch.tensor([3, 2]))  # 1 + 1/2 + 1/3; 1/3 + 1/4
    >>> [round(x, 6) for x in inverse.tolist()], [round(x, 6) for x in offsets.tolist()]  # 1/2 + 2/3; 1/4
    ([1.833333, 0.583333], [1.166667, 0.25])
    """
    x, g = (above + 1).double(), size.double()
    early = above + 1 < SERIES_FROM  # their first ranks come from a table
    table = torch.cumsum(1 / torch.arange(1, SERIES_FROM, dtype=torch.float64, device=above.device), 0)
    table = torch.cat([table.new_zeros(1), table])  # table[n] = H(n), n < SERIES_FROM
    listed = table[(above + size).clamp(max=SERIES_FROM - 1)] - table[above.clamp(max=SERIES_FROM - 1)]

    start = x.clamp(min=SERIES_FROM)
    rest = (x + g - start).clamp(min=0)
    u = rest / start
    half = u / (1 + u) / 2
    tails = _tail(start) - _tail(start + rest)
    inverse = listed + torch.log1p(u) + half / start + tails
    offsets = torch.where(early, g - x * inverse, start * _excess(u) - half - start * tails)
    return inverse, torch.where(size > 1, offsets, 0)


def _tail(x: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    square, out = 1 / (x * x), torch.zeros_like(x)
    for factor in reversed(_TAIL):
        out = (out + factor) * square
    return out


def _excess(u: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """u - log1p(u) for u >= 0. Below 1/2 by log1p(u) = 2 atanh(z), z = u / (2 + u), without cancellation."""
    z = u / (2 + u)
    square, odd = z * z, torch.zeros_like(z)
    for k in range(23, 1, -2):  # z <= 1/5: z^24 is below 2^-53
        odd = odd * square + 1 / k
    return torch.where(u < 0.5, 2 * z * z * (1 / (1 - z) - z * odd), u - torch.log1p(u))
