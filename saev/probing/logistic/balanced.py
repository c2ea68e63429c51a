"""Class-balanced pairs: a class and all other tokens weigh the same. Each pair is treated as a latent with one class.

    a latent's cells: moments of all tokens ──┬──────────────────────────────────────▶ two Gauss nodes for all classes
    moments of its tokens of each class ──────┴──weights──▶ moments of the pair's cell ──▶ two nodes of the pair instead

With N tokens, P of them of the class, these weigh N / 2P each and the others N / 2(N - P) (scikit-learn's
class_weight="balanced"): the mean loss is half the mean over the class plus half the mean over the rest. So the distribution of
the codes, its mean and deviation, and the initial values differ between the classes.

Most cells of a pair hold no token of its class: their nodes are those of the unweighted tokens, with other weights.

Only the number of a bin's tokens of a class is known: their values are taken to be the mean of the bin. This moves a code by at
most the bin's width, usually 2^-10 of it, and by nothing where each value has a bin. At 10 bits a loss changes by 1e-9 to 1e-6,
at most 1e-4, of itself; by up to 2e-2 where a rare class is nearly separable by codes that lie 100 deviations from 0.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from saev.ops import ordering
from saev.probing.counts import segments
from saev.probing.counts.table import LabelTable
from saev.probing.logistic.nodes import Nodes, argsort_nodes, bin_moments, cell_starts, gauss_points, sorted_nodes


class Pairs(NamedTuple):
    """The first three arguments of `solve` and `cross_entropy`, for latents with one class each."""

    nodes: Nodes
    positives: Float64[Tensor, "pairs 1"]
    p1: Float64[Tensor, "pairs 1"]


def token_weights(
    positives: Int64[Tensor, "*classes"], n_tokens: int
) -> tuple[Float64[Tensor, "*classes"], Float64[Tensor, "*classes"]]:
    """(weight of negatives, weight of positives); 1 where all tokens are on one side.

    >>> token_weights(torch.tensor([1, 0]), 4)
    (tensor([0.6667, 1.0000], dtype=torch.float64), tensor([2., 1.], dtype=torch.float64))
    """
    negatives = n_tokens - positives
    both = (positives > 0) & (negatives > 0)
    of_negatives, of_positives = (n_tokens / 2 / n.double() for n in (negatives, positives))
    return torch.where(both, of_negatives, 1), torch.where(both, of_positives, 1)


def balanced(table: LabelTable, classes: Int64[Tensor, "latents k"], bits: int = 3) -> Pairs:
    """Each latent with each of its k different classes: pair latent * k + i is that with classes[latent, i].

    The weights of a pair's nodes sum to n_tokens, those of its positives to half of that.
    """
    n, k = table.n_tokens, classes.shape[1]
    positives = table.positives[classes]
    of_negatives, of_positives = (weights.flatten() for weights in token_weights(positives, n))
    group, pair, joint = _entries(table, classes)

    count = table.count.double()
    bin_mean, variance = bin_moments(count, table.total, table.squares)
    starts = cell_starts(table, bits)
    cell, owner = segments.segment_ids(starts, len(count)), table.latent[starts]
    centre = segments.segment_sums(table.total, starts) / segments.segment_sums(count, starts)
    deviation = bin_mean - centre[cell]
    spread = variance + deviation.square()
    powers = (torch.ones_like(count), deviation, spread, deviation * (spread + 2 * variance))
    totals = [segments.segment_sums(count * power, starts) for power in powers]
    shared = _points(centre, totals, totals[0] > 2)

    key = cell[group] * k + pair % k  # entries by cell and class
    by_key = ordering.order(key)
    first = segments.segment_starts(key[by_key])
    pair_cell, cell_pair = cell[group[by_key[first]]], pair[by_key[first]]
    hits = [segments.segment_sums((joint * power[group])[by_key], first) for power in powers]
    sums = [
        of_negatives[cell_pair] * (total[pair_cell] - hit) + of_positives[cell_pair] * hit
        for total, hit in zip(totals, hits, strict=True)
    ]
    # The values of two tokens are exact, but not which of them is of the class.
    inexact = (totals[0][pair_cell] > 2) | (hits[0] < totals[0][pair_cell])
    weighted = _points(centre[pair_cell], sums, inexact)

    silent = (n - table.firings).double()
    silent_hits = (positives - table.p0.gather(1, classes)).flatten().double()
    weighted_silent = of_negatives * (silent.repeat_interleave(k) - silent_hits) + of_positives * silent_hits
    latents, pairs = (torch.arange(size, device=classes.device) for size in (table.n_latents, table.n_latents * k))
    nodes = _for_each_class(
        shared.and_zeros(silent),
        torch.cat([owner.repeat_interleave(2), latents]),
        weighted.and_zeros(weighted_silent),
        torch.cat(
            [
                torch.stack([2 * pair_cell, 2 * pair_cell + 1], 1).flatten(),
                2 * len(starts) + latents.repeat_interleave(k),
            ]
        ),
        torch.cat([cell_pair.repeat_interleave(2), pairs]),
        of_negatives.view(-1, k),
        n,
    )
    p1 = of_positives * segments.scatter_sum(joint * bin_mean[group], pair, len(pairs))
    return Pairs(nodes, (of_positives.view(-1, k) * positives).view(-1, 1), p1.view(-1, 1))


def _entries(
    table: LabelTable, classes: Int64[Tensor, "latents k"]
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Float64[Tensor, " n"]]:
    """(group, pair, tokens) of the table's joint counts whose latent and class are a pair."""
    k = classes.shape[1]
    pair_of = torch.full((table.n_latents, table.n_classes), -1, device=classes.device)
    pair_of.scatter_(1, classes, torch.arange(classes.numel(), device=classes.device).view(-1, k))
    pair = pair_of[table.latent[table.group], table.label]
    kept = segments.nonzero(pair >= 0)
    return table.group[kept], pair[kept], table.joint[kept].double()


class _Points(NamedTuple):
    """Nodes in any order."""

    values: Float64[Tensor, " n"]
    weights: Float64[Tensor, " n"]
    hidden: Float64[Tensor, " n"]

    def and_zeros(self, weights: Float64[Tensor, " m"]) -> "_Points":
        """These points followed by points of value 0."""
        zeros = torch.zeros_like(weights)
        return _Points(*(torch.cat(columns) for columns in zip(self, (zeros, weights, zeros), strict=True)))


def _points(
    centre: Float64[Tensor, " cells"], sums: list[Float64[Tensor, " cells"]], inexact: Bool[Tensor, " cells"]
) -> _Points:
    """The two Gauss nodes of each cell with these weighted sums of the powers 0 to 3 of the distance from `centre`; `inexact` where
    they are not the codes themselves."""
    weight, *rest = sums
    shift, second, third = (power / weight for power in rest)
    std = (second - shift.square()).clamp(min=0).sqrt()
    skew = torch.where(std > 0, (third - shift * (3 * second - 2 * shift.square())) / std**3, 0)
    values, weights = gauss_points(weight, centre + shift, std, skew)
    hidden = torch.where(inexact, weight * std / 2, 0)
    return _Points(values.flatten(), weights.flatten(), hidden.repeat_interleave(2))


def _for_each_class(
    shared: _Points,
    latent: Int64[Tensor, " shared"],
    weighted: _Points,
    replaced: Int64[Tensor, " weighted"],
    pair: Int64[Tensor, " weighted"],
    factor: Float64[Tensor, "latents k"],
    n_tokens: int,
) -> Nodes:
    """The shared points of each latent, repeated per class with weights times `factor`; `weighted[i]` replaces the shared point
    `replaced[i]` in the pair `pair[i]`."""
    n_latents, k = factor.shape
    order = segments.nonzero(shared.weights > 0)  # the second node of equal codes weighs 0 for every class
    order = order[argsort_nodes(latent[order], shared.values[order], n_latents)]
    lengths = torch.bincount(latent[order], minlength=n_latents)
    begin, of_pair = lengths.cumsum(0) - lengths, lengths.repeat_interleave(k)
    index = segments.ranges(begin.repeat_interleave(k), of_pair)
    owner = torch.repeat_interleave(of_pair)
    scale = segments.index_select(factor.flatten(), owner)
    values, weights, hidden = (segments.index_select(column[order], index) for column in shared)
    columns = values, weights * scale, hidden * scale

    rank = torch.full_like(latent, -1)
    rank[order] = torch.arange(len(order), device=latent.device) - begin[latent[order]]
    known = rank[replaced] >= 0
    target = ((of_pair.cumsum(0) - of_pair)[pair] + rank[replaced])[known]
    for column, points in zip(columns, weighted, strict=True):
        column[target] = points[known]
    return sorted_nodes(owner, *columns, n_tokens, n_latents * k)
