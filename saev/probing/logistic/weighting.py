"""Probes with every token alike, or with each class and its rest balanced: of all pairs, and of latents with a class each."""

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

AT_A_TIME = 1 << 11  # pairs put together while they are balanced: some 0.15 GB


def fit_all(
    table: LabelTable,
    bits: int,
    weights: Weights,
    ridge: float = RIDGE,
    advance: Callable[[int], object] = lambda n: None,
) -> LogisticFit:
    """`solve` of every latent with every class, from cells of `bits` mantissa bits; `advance` as there."""
    if weights == "none":
        return solve(nodes(table, bits), table.positives, table.p1, ridge, advance=advance)
    fits = [solve(*balanced(part, classes, bits), ridge, advance=advance) for part, classes, _ in _parts(table)]
    joined = {field.name: torch.cat([getattr(fit, field.name) for fit in fits]) for field in fields(LogisticFit)}
    return LogisticFit(**{name: values.view(-1, table.n_classes) for name, values in joined.items()})


def losses_of_all_pairs(
    table: LabelTable,
    bits: int,
    weights: Weights,
    b: Float64[Tensor, "latents classes"],
    w: Float64[Tensor, "latents classes"],
) -> Float64[Tensor, "latents classes"]:
    """`cross_entropy` of fits of all pairs on this table's tokens, in nats per token; balanced, NaN where all tokens are on
    one side."""
    if weights == "none":
        return cross_entropy(nodes(table, bits), table.positives, table.p1, b, w)
    found = [
        losses_of_pairs(balanced(part, classes, bits), weights, b[latents].view(-1, 1), w[latents].view(-1, 1))
        for part, classes, latents in _parts(table)
    ]
    return torch.cat(found).view(-1, table.n_classes)


def own(table: LabelTable, classes: Int64[Tensor, " latents"], weights: Weights) -> Pairs:
    """Each latent with one class, in the table's own bins: exact where these hold a value each."""
    if weights == "balanced":
        return balanced(table, classes[:, None], table.mantissa_bits)
    p1 = table.p1.gather(1, classes[:, None])
    return Pairs(nodes(table, table.mantissa_bits), table.positives[classes, None].double(), p1)


def losses_of_pairs(
    pairs: Pairs, weights: Weights, b: Float64[Tensor, "pairs 1"], w: Float64[Tensor, "pairs 1"]
) -> Float64[Tensor, "pairs 1"]:
    """As `losses_of_all_pairs`, of pairs."""
    loss = cross_entropy(*pairs, b, w)
    if weights == "none":
        return loss
    both = (pairs.positives > 0) & (pairs.positives < pairs.nodes.n_tokens)
    return torch.where(both, loss, torch.nan)


def _parts(table: LabelTable) -> Iterator[tuple[LabelTable, Int64[Tensor, "l classes"], Int64[Tensor, " l"]]]:
    """The tables of some latents at a time, all classes for each of these, and their numbers."""
    every = torch.arange(table.n_classes, device=table.p1.device)
    numbers = torch.arange(table.n_latents, device=table.p1.device)
    for latents in numbers.split(max(1, AT_A_TIME // table.n_classes)):
        yield table.select(latents), every.expand(len(latents), -1), latents
