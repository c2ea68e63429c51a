"""How well each latent ranks the tokens of each class: average precision, AUROC, best F1 and IoU of all pairs.

Tokens are best_latents by code, highest first. Those of one bin tie; so do those on which the latent does not fire: one large
group of code 0 between the positive and the negative codes. A pair costs as much as it has groups with tokens of its class,
and a constant for the silent group:

    groups with p > 0 tokens of the class, of g tokens, after n tokens of which r are of the class   --formula--> [L, C]

Pairs of classes without tokens are NaN everywhere; AUROC also where all tokens are of the class. A dead latent ranks at
random: AP is that of a random order, AUROC 1/2.

Bins cost nothing where they hold one value each (10 bits of mantissa and float16 codes). Else codes that differ by less than
2^-bits relative may tie. What that changes of AP, measured on 36240 pairs of 16384 tokens with float32 codes: with 10 bits
4e-7 on average and at most 1e-3 (of a class with one token), with 7 bits 2e-6 and 3e-3, with 4 bits 2e-5 and 9e-3.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from saev.probing.counts import segments
from saev.probing.counts.table import LabelTable
from saev.probing.ranking.rank_sums import rank_sums
from saev.probing.ranking.tie_groups import blocks


class Best(NamedTuple):
    """The best value over thresholds, and the highest threshold that has it: predicted are tokens of code >= threshold."""

    value: Float64[Tensor, "latents classes"]
    threshold: Float64[Tensor, "latents classes"]


def average_precision(table: LabelTable) -> Float64[Tensor, "latents classes"]:
    """The mean precision at the ranks of a class's tokens, expected over all orders of ties.

    The closed formula of McSherry & Najork (ECIR 2008): in a group of g, p of the class, after n with r of the class,

        sum_{j=0}^{g-1} p/g * (r + 1 + j (p - 1)/(g - 1)) / (n + 1 + j)

    Equals scikit-learn's average_precision_score where no scores tie (that one counts a tie group as if all of it came
    first).
    """
    out = _zeros(table)
    for rows, parts in blocks(table):
        for ties in parts:
            inverse, places = rank_sums(ties.above, ties.size)
            p, g = ties.positives.double(), ties.size.double().clamp(min=1)  # silent groups may be empty
            slope = places / (g - 1).clamp(min=1)
            of = ties.group
            terms = p / g[of] * ((ties.hits + 1) * inverse[of] + (p - 1) * slope[of])
            out[rows] += segments.scatter_sum(terms, ties.pair, out[rows].numel()).view_as(out[rows])
    return out / table.positives


def auroc(table: LabelTable) -> Float64[Tensor, "latents classes"]:
    """The probability that a token of the class has a higher code than one that is not, ties counted half."""
    out = _zeros(table)
    negatives = table.n_tokens - table.positives
    for rows, parts in blocks(table):
        for ties in parts:
            of, p = ties.group, ties.positives
            before = ties.above[of] - ties.hits  # not of the class
            lost = p.double() * (2 * before + ties.size[of] - p)  # twice: to stay whole
            out[rows] += segments.scatter_sum(lost, ties.pair, out[rows].numel()).view_as(out[rows])
    return torch.where(negatives > 0, 1 - out / 2 / (table.positives.double() * negatives), torch.nan)


def best_f1(table: LabelTable) -> Best:
    """The largest F1 of "code >= threshold", over thresholds at bin edges and at 0.

    0 predicts every token where codes are never negative. Below the last token of the class F1 falls: "everything" is no
    better than the lowest threshold looked at.
    """
    value, threshold = _zeros(table), _zeros(table)
    for rows, parts in blocks(table):
        n = value[rows].numel()
        best, edge = value.new_full((n,), -1.0), value.new_full((n,), -torch.inf)
        for ties in parts:
            predicted = ties.above + ties.size
            class_ = ties.pair % table.n_classes
            f1 = 2 * (ties.hits + ties.positives).double() / (predicted[ties.group] + table.positives[class_])
            before, best = best, best.scatter_reduce(0, ties.pair, f1, "amax")
            edge = torch.where(best > before, -torch.inf, edge)
            at = torch.where(f1 == best[ties.pair], ties.edge[ties.group], -torch.inf)
            edge = edge.scatter_reduce(0, ties.pair, at, "amax")
        value[rows], threshold[rows] = best.view_as(value[rows]), edge.view_as(value[rows])
    known = table.positives > 0
    return Best(torch.where(known, value, torch.nan), torch.where(known, threshold, torch.nan))


def _zeros(table: LabelTable) -> Float64[Tensor, "latents classes"]:
    """Zeros to sum into."""
    return table.p1.new_zeros(table.n_latents, table.n_classes)
