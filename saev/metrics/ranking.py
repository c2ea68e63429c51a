"""Average precision: the mean precision at the ranks of a class's tokens, expected over all orders of tied scores.

The one definition in all tables. The closed formula of McSherry & Najork (ECIR 2008): a group of g tied tokens, p of the class,
after n with higher scores of which r are of the class, adds

    sum_{j=0}^{g-1} p/g * (r + 1 + j (p - 1)/(g - 1)) / (n + 1 + j)

Equals scikit-learn's average_precision_score where no scores tie (scikit-learn evaluates a tie group at its end).

Its harmonic sums over the ranks of tied scores, with x = n + 1, are

    inverse_ranks = sum_j 1 / (x + j)        offsets_over_ranks = sum_j j / (x + j)        j = 0 ... g - 1

As differences of harmonic numbers they would lose as many digits as x / g has: far down a ranking, most of them. So both are
written in u = g / x, with the cancelling terms removed analytically. With digamma's series, psi(x) = log x - 1/2x - tail(x),

    psi(x + g) - psi(x)         = log1p(u) + 1/2x * u / (1 + u) + tail(x) - tail(x + g)
    g - x (psi(x + g) - psi(x)) = x (u - log1p(u)) - 1/2 * u / (1 + u) - x (tail(x) - tail(x + g))

The series is accurate from x = 16 on; earlier ranks are summed one by one.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, Shaped
from torch import Tensor

SERIES_FROM = 16
_TAIL = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132)  # B_2k / 2k: relative error 7e-17 of psi(16)


def average_precision(scores: Shaped[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """The average precision of one class; NaN without a positive.

    >>> round(average_precision(np.array([2.0, 1.0, 1.0, 0.0]), np.array([False, True, False, False])), 6)  # (1/2 + 1/3) / 2
    0.416667
    """
    _, group = np.unique(-scores, return_inverse=True)
    size, positives = np.bincount(group), np.bincount(group, positive).astype(np.int64)
    terms = precision_sums(torch.from_numpy(positives), torch.from_numpy(size))
    return float(terms.sum() / positives.sum()) if positive.any() else float("nan")


def precision_sums(
    positives: Int64[Tensor, "*#batch groups"], size: Int64[Tensor, "*#batch groups"]
) -> Float64[Tensor, "*batch groups"]:
    """The expected sum of precisions at the ranks of the positives of each tie group; groups by descending score, also empty ones.

    Divided by the number of positives, their sum is the average precision.
    """
    above, hits = size.cumsum(-1) - size, positives.cumsum(-1) - positives
    inverse, offsets = rank_sums(above.flatten(), size.clamp(min=1).flatten())
    return tie_terms(positives, size, hits, inverse.view_as(size), offsets.view_as(size))


def tie_terms(
    positives: Int64[Tensor, "*n"], size: Int64[Tensor, "*n"], hits: Int64[Tensor, "*n"],
    inverse: Float64[Tensor, "*n"], offsets: Float64[Tensor, "*n"],
) -> Float64[Tensor, "*n"]:  # fmt: skip
    """The formula above, for groups with `hits` positives before them and the `rank_sums` of their ranks."""
    p, g = positives.double(), size.double().clamp(min=1)  # groups may be empty
    return p / g * ((hits + 1) * inverse + (p - 1) * offsets / (g - 1).clamp(min=1))


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
