"""Pairs in the measure where a class and all other tokens weigh the same, each as a latent of its own with one class.

    a latent's cells: moments of all tokens ──┐
    those of its tokens of each class ────────┴──weights──▶ moments of the pair's cell ──▶ two Gauss nodes

With N tokens, P of them of the class, these weigh N / 2P each and the others N / 2(N - P) (scikit-learn's
class_weight="balanced"): the mean loss is half the mean over the class plus half the mean over the rest. So the codes'
distribution is another one for every class, and all that comes of it, from mean and deviation to the starts, is the pair's.

Of a bin's tokens of a class only the number is known: they count as the bin's tokens do on average. That moves a code by a
bin's width at most, 2^-10 of it as a rule, and nothing where each value has a bin. At 10 bits a loss moves by 1e-9 to 1e-6 of
itself, 1e-4 at most; by up to 2e-2 where a rare class is nearly separable by codes that lie 100 deviations from 0.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from saev.probing import segments
from saev.probing.cells import cells, gauss_points, inner
from saev.probing.nodes import Nodes, in_order
from saev.probing.table import LabelTable


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
    column = torch.full((table.n_latents, table.n_classes), -1, device=classes.device)
    column.scatter_(1, classes, torch.arange(k, device=classes.device).expand_as(classes))
    mine = column[table.latent[table.group], table.label]
    kept = segments.places(mine >= 0)
    group, mine, joint = table.group[kept], mine[kept], table.joint[kept].double()
    positives = table.positives[classes]
    of_negatives, of_positives = token_weights(positives, n)

    def by_class(values: Tensor, at: Tensor, size: int) -> Tensor:
        """Sums over the tokens of each class, of a value per group; `at` says where a group's go."""
        return segments.scattered(joint * values[group], at[group] * k + mine, size * k).view(-1, k)

    count = table.count.double()
    middle, within = inner(count, table.total, table.squares)
    starts = cells(table, bits)
    cell, owner = segments.run_of_each(starts, len(count)), table.latent[starts]
    centre = segments.run_sums(table.total, starts) / segments.run_sums(count, starts)
    apart = middle - centre[cell]
    spread = within + apart.square()
    powers = (torch.ones_like(count), apart, spread, apart * (spread + 2 * within))
    hits = [by_class(power, cell, len(starts)) for power in powers]
    every = [segments.run_sums(count * power, starts)[:, None] for power in powers]
    sums = [of_negatives[owner] * (e - h) + of_positives[owner] * h for e, h in zip(every, hits, strict=True)]
    values, weights, std = _points(centre[:, None], *sums)
    # Two tokens are known one by one, but for which of them is of the class.
    unknown = (every[0] > 2) | ((hits[0] > 0) & (hits[0] < every[0]))
    hidden = torch.where(unknown, sums[0] * std / 2, 0)

    pair = torch.arange(table.n_latents * k, device=classes.device).view(-1, k)
    silent_hits = (positives - table.p0.gather(1, classes)).double()
    silent = of_negatives * ((n - table.firings)[:, None] - silent_hits) + of_positives * silent_hits
    none = torch.zeros_like(silent).flatten()
    nodes = in_order(
        torch.cat([pair[owner].flatten().repeat_interleave(2), pair.flatten()]),
        torch.cat([values.flatten(), none]),
        torch.cat([weights.flatten(), silent.flatten()]),
        torch.cat([hidden.flatten().repeat_interleave(2), none]),
        n,
        table.n_latents * k,
    )
    p1 = of_positives * by_class(middle, table.latent, table.n_latents)
    return Pairs(nodes, (of_positives * positives).view(-1, 1), p1.view(-1, 1))


def _points(
    centre: Float64[Tensor, "cells 1"],
    weight: Float64[Tensor, "cells k"],
    first: Float64[Tensor, "cells k"],
    second: Float64[Tensor, "cells k"],
    third: Float64[Tensor, "cells k"],
) -> tuple[Float64[Tensor, "cells k 2"], Float64[Tensor, "cells k 2"], Float64[Tensor, "cells k"]]:
    """(values, weights, standard deviation) of the Gauss nodes of what has these weighted sums of powers 0 to 3 of the
    distance from a centre."""
    shift, second, third = first / weight, second / weight, third / weight
    std = (second - shift.square()).clamp(min=0).sqrt()
    skew = torch.where(std > 0, (third - shift * (3 * second - 2 * shift.square())) / std**3, 0)
    return *gauss_points(weight, centre + shift, std, skew), std
