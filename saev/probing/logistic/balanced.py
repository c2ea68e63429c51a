"""Pairs in the measure where a class and all other tokens weigh the same, each as a latent of its own with one class.

    a latent's cells: moments of all tokens ──┬──────────────────────────────────────▶ two Gauss nodes for all classes
    those of its tokens of each class ────────┴──weights──▶ moments of the pair's cell ──▶ two of its own instead

With N tokens, P of them of the class, these weigh N / 2P each and the others N / 2(N - P) (scikit-learn's
class_weight="balanced"): the mean loss is half the mean over the class plus half the mean over the rest. So the codes'
distribution is another one for every class, and all that comes of it, from mean and deviation to the starts, is the pair's.

Most of a pair's cells hold no token of its class: their nodes are those of the unweighted tokens, each of another weight.

Of a bin's tokens of a class only the number is known: they count as the bin's tokens do on average. That moves a code by a
bin's width at most, 2^-10 of it as a rule, and nothing where each value has a bin. At 10 bits a loss moves by 1e-9 to 1e-6 of
itself, 1e-4 at most; by up to 2e-2 where a rare class is nearly separable by codes that lie 100 deviations from 0.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from saev.ops import ordering
from saev.probing.counts import segments
from saev.probing.counts.table import LabelTable
from saev.probing.logistic.nodes import Nodes, argsort_nodes, sorted_nodes
from saev.probing.logistic.quadrature import cells, gauss_points, inner


class Pairs(NamedTuple):
    """What `solve` and `cross_entropy` take, their first three arguments, of latents with a class each."""

    nodes: Nodes
    positives: Float64[Tensor, "pairs 1"]
    p1: Float64[Tensor, "pairs 1"]


def token_weights(
    positives: Int64[Tensor, "*classes"], n_tokens: int
) -> tuple[Float64[Tensor, "*classes"], Float64[Tensor, "*classes"]]:
    """(of a token that is not of the class, of one that is); 1 where all tokens are on one side: nothing is to balance.

    >>> token_weights(torch.tensor([1, 0]), 4)
    (tensor([0.6667, 1.0000], dtype=torch.float64), tensor([2., 1.], dtype=torch.float64))
    """
    negatives = n_tokens - positives
    both = (positives > 0) & (negatives > 0)
    of_negatives, of_positives = (n_tokens / 2 / n.double() for n in (negatives, positives))
    return torch.where(both, of_negatives, 1), torch.where(both, of_positives, 1)


def balanced(table: LabelTable, classes: Int64[Tensor, "latents k"], bits: int = 3) -> Pairs:
    """Each latent with each of its k classes: pair latent * k + i is that with classes[latent, i], different ones.

    The weights of a pair's nodes sum to the tokens, those of its positives to half of them.
    """
    n, k = table.n_tokens, classes.shape[1]
    positives = table.positives[classes]
    of_negatives, of_positives = (weights.flatten() for weights in token_weights(positives, n))
    group, pair, joint = _entries(table, classes)

    count = table.count.double()
    middle, within = inner(count, table.total, table.squares)
    starts = cells(table, bits)
    cell, owner = segments.segment_ids(starts, len(count)), table.latent[starts]
    centre = segments.segment_sums(table.total, starts) / segments.segment_sums(count, starts)
    apart = middle - centre[cell]
    spread = within + apart.square()
    powers = (torch.ones_like(count), apart, spread, apart * (spread + 2 * within))
    every = [segments.segment_sums(count * power, starts) for power in powers]
    shared = _points(centre, every, every[0] > 2)

    key = cell[group] * k + pair % k  # entries by cell and class
    by_key = ordering.order(key)
    first = segments.segment_starts(key[by_key])
    at, mine = cell[group[by_key[first]]], pair[by_key[first]]
    hits = [segments.segment_sums((joint * power[group])[by_key], first) for power in powers]
    sums = [of_negatives[mine] * (e[at] - h) + of_positives[mine] * h for e, h in zip(every, hits, strict=True)]
    # Two tokens are known one by one, but for which of them is of the class.
    own = _points(centre[at], sums, (every[0][at] > 2) | (hits[0] < every[0][at]))

    silent = (n - table.firings).double()
    silent_hits = (positives - table.p0.gather(1, classes)).flatten().double()
    own_silent = of_negatives * (silent.repeat_interleave(k) - silent_hits) + of_positives * silent_hits
    latents, pairs = (torch.arange(size, device=classes.device) for size in (table.n_latents, table.n_latents * k))
    nodes = _for_each_class(
        shared.and_zeros(silent),
        torch.cat([owner.repeat_interleave(2), latents]),
        own.and_zeros(own_silent),
        torch.cat([torch.stack([2 * at, 2 * at + 1], 1).flatten(), 2 * len(starts) + latents.repeat_interleave(k)]),
        torch.cat([mine.repeat_interleave(2), pairs]),
        of_negatives.view(-1, k),
        n,
    )
    p1 = of_positives * segments.scatter_sum(joint * middle[group], pair, len(pairs))
    return Pairs(nodes, (of_positives.view(-1, k) * positives).view(-1, 1), p1.view(-1, 1))


def _entries(
    table: LabelTable, classes: Int64[Tensor, "latents k"]
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Float64[Tensor, " n"]]:
    """(group, pair, tokens) of the table's joint counts that are of a pair."""
    k = classes.shape[1]
    place = torch.full((table.n_latents, table.n_classes), -1, device=classes.device)
    place.scatter_(1, classes, torch.arange(classes.numel(), device=classes.device).view(-1, k))
    pair = place[table.latent[table.group], table.label]
    kept = segments.nonzero(pair >= 0)
    return table.group[kept], pair[kept], table.joint[kept].double()


class _Points(NamedTuple):
    """Nodes in any order."""

    values: Float64[Tensor, " n"]
    weights: Float64[Tensor, " n"]
    hidden: Float64[Tensor, " n"]

    def and_zeros(self, weights: Float64[Tensor, " m"]) -> "_Points":
        """These, then nodes of value 0."""
        none = torch.zeros_like(weights)
        return _Points(*(torch.cat(both) for both in zip(self, (none, weights, none), strict=True)))


def _points(
    centre: Float64[Tensor, " cells"], sums: list[Float64[Tensor, " cells"]], unknown: Bool[Tensor, " cells"]
) -> _Points:
    """The two Gauss nodes of each cell with these weighted sums of powers 0 to 3 of the distance from a centre; `unknown`
    where they are not the codes themselves."""
    weight, *rest = sums
    shift, second, third = (power / weight for power in rest)
    std = (second - shift.square()).clamp(min=0).sqrt()
    skew = torch.where(std > 0, (third - shift * (3 * second - 2 * shift.square())) / std**3, 0)
    values, weights = gauss_points(weight, centre + shift, std, skew)
    hidden = torch.where(unknown, weight * std / 2, 0)
    return _Points(values.flatten(), weights.flatten(), hidden.repeat_interleave(2))


def _for_each_class(
    shared: _Points,
    latent: Int64[Tensor, " shared"],
    own: _Points,
    instead: Int64[Tensor, " own"],
    pair: Int64[Tensor, " own"],
    factor: Float64[Tensor, "latents k"],
    n_tokens: int,
) -> Nodes:
    """The shared points of each latent once for each class, by `factor` heavier; in some pairs own ones stand instead."""
    n_latents, k = factor.shape
    order = segments.nonzero(shared.weights > 0)  # the second of equal codes weighs nothing for any class
    order = order[argsort_nodes(latent[order], shared.values[order], n_latents)]
    lengths = torch.bincount(latent[order], minlength=n_latents)
    begin, of_pair = lengths.cumsum(0) - lengths, lengths.repeat_interleave(k)
    place = segments.ranges(begin.repeat_interleave(k), of_pair)
    each = torch.repeat_interleave(of_pair)
    heavier = segments.index_select(factor.flatten(), each)
    values, weights, hidden = (segments.index_select(column[order], place) for column in shared)
    columns = values, weights * heavier, hidden * heavier

    rank = torch.full_like(latent, -1)
    rank[order] = torch.arange(len(order), device=latent.device) - begin[latent[order]]
    known = rank[instead] >= 0
    to = ((of_pair.cumsum(0) - of_pair)[pair] + rank[instead])[known]
    for column, points in zip(columns, own, strict=True):
        column[to] = points[known]
    return sorted_nodes(each, *columns, n_tokens, n_latents * k)
