"""Fits and losses of all pairs, or of latents with one class each; tokens weigh the same, or each class and its complement do."""

from collections.abc import Callable, Iterator
from dataclasses import fields

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from saev.probing.counts.table import LabelTable
from saev.probing.logistic.balanced import Pairs, balanced
from saev.probing.logistic.fit import RIDGE, LogisticFit, cross_entropy, solve
from saev.probing.logistic.nodes import nodes
from saev.probing.settings import Weights

AllPairs = Float64[Tensor, "latents classes"]
PAIRS_PER_BLOCK = 1 << 11  # balanced pairs per call of `solve`: some 0.15 GB


def fit_all(
    table: LabelTable,
    bits: int,
    weights: Weights,
    ridge: float = RIDGE,
    advance: Callable[[int], object] = lambda n: None,
) -> LogisticFit:
    """`solve` for every latent and class, from cells of `bits` mantissa bits."""
    if weights == "none":
        return solve(nodes(table, bits), table.positives, table.p1, ridge, advance=advance)
    fits = [solve(*balanced(part, classes, bits), ridge, advance=advance) for part, classes, _ in _parts(table)]
    joined = {field.name: torch.cat([getattr(fit, field.name) for fit in fits]) for field in fields(LogisticFit)}
    return LogisticFit(**{name: values.view(-1, table.n_classes) for name, values in joined.items()})


def losses_of_all_pairs(table: LabelTable, bits: int, weights: Weights, b: AllPairs, w: AllPairs) -> AllPairs:
    """`cross_entropy` of all pairs' fits on this table's tokens, in nats per token; balanced: NaN where all or no tokens are of the
    class."""
    if weights == "none":
        return cross_entropy(nodes(table, bits), table.positives, table.p1, b, w)
    losses = [
        losses_of_pairs(balanced(part, classes, bits), weights, b[latents].view(-1, 1), w[latents].view(-1, 1))
        for part, classes, latents in _parts(table)
    ]
    return torch.cat(losses).view(-1, table.n_classes)


def pairs_of(table: LabelTable, classes: Int64[Tensor, " latents"], weights: Weights) -> Pairs:
    """Each latent with one class, in the bins of the table: exact where each bin holds one value."""
    if weights == "balanced":
        return balanced(table, classes[:, None], table.mantissa_bits)
    p1 = table.p1.gather(1, classes[:, None])
    return Pairs(nodes(table, table.mantissa_bits), table.positives[classes, None].double(), p1)


def losses_of_pairs(
    pairs: Pairs, weights: Weights, b: Float64[Tensor, "pairs 1"], w: Float64[Tensor, "pairs 1"]
) -> Float64[Tensor, "pairs 1"]:
    """As `losses_of_all_pairs`, for latents with one class each."""
    loss = cross_entropy(*pairs, b, w)
    if weights == "none":
        return loss
    both = (pairs.positives > 0) & (pairs.positives < pairs.nodes.n_tokens)
    return torch.where(both, loss, torch.nan)


def _parts(table: LabelTable) -> Iterator[tuple[LabelTable, Int64[Tensor, "l classes"], Int64[Tensor, " l"]]]:
    """(table of a block of latents, all classes for each of them, their indices)."""
    every = torch.arange(table.n_classes, device=table.p1.device)
    numbers = torch.arange(table.n_latents, device=table.p1.device)
    for latents in numbers.split(max(1, PAIRS_PER_BLOCK // table.n_classes)):
        yield table.select(latents), every.expand(len(latents), -1), latents
