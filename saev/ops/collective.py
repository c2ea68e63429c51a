"""Reductions over a batch sharded across processes. Outside `sharded_batch(...)` the batch is not sharded: all are identities.

A mean over the whole batch is the sum over processes of fraction * (mean over the local shard), fraction being the shard's tokens
among all. So each process runs backward from fraction * (local loss), and gradients are summed. Terms that are not a mean over
tokens (a selection over the batch, the square of a mean) are computed from whole-batch numbers first.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor


class ShardedBatch(NamedTuple):
    """How the current batch is divided over processes."""

    tokens: int  # of the whole batch
    fraction: float  # of them, those of this process
    world: int


_sharded: ShardedBatch | None = None


@contextlib.contextmanager
def sharded_batch(here: int, tokens: int) -> Iterator[None]:
    """Context in which the current batch of `here` tokens is this process's shard of one of `tokens` over all processes.

    All processes must make the same calls in it, in the same order. No effect in a single process.
    """
    global _sharded
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        yield
        return
    before, _sharded = _sharded, ShardedBatch(tokens, here / tokens, dist.get_world_size())
    try:
        yield
    finally:
        _sharded = before


def world_size() -> int:
    """The number of processes over which the batch is sharded."""
    return 1 if _sharded is None else _sharded.world


def global_batch_size(here: int) -> int:
    """The tokens of the whole batch, `here` being those of this process."""
    return here if _sharded is None else _sharded.tokens


def weight_by_fraction(mean: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """fraction * mean: summed over processes, the mean of the whole batch."""
    return mean if _sharded is None else mean * _sharded.fraction


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum over processes, without a graph."""
    return x if _sharded is None else _reduced(x, dist.ReduceOp.SUM)


def all_reduce_min(x: Tensor) -> Tensor:
    """The minimum over processes, entry by entry, without a graph."""
    return x if _sharded is None else _reduced(x, dist.ReduceOp.MIN)


def all_reduce_mean(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The whole batch's mean, x being the mean over this process's shard.

    Backward passes the gradient on unchanged: `weight_by_fraction` applies the fraction to the loss.
    """
    return x if _sharded is None else _Mean.apply(x, _sharded.fraction)  # type: ignore[return-value]


def all_reduce_means(values: Sequence[Float[Tensor, ""]]) -> list[Float[Tensor, ""]]:
    """`all_reduce_mean` of several scalars in one message, without a graph."""
    if _sharded is None:
        return [value.detach() for value in values]
    return list(all_reduce_mean(torch.stack([value.detach().float() for value in values])).unbind())


def all_reduce_sum_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over processes, all reductions running at the same time."""
    if _sharded is not None:
        for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()  # type: ignore[union-attr]


class Cut(NamedTuple):
    """The values that a process keeps: those above `threshold`, and any `ties` of those equal to it."""

    threshold: Float[Tensor, ""]
    ties: Int[Tensor, ""]


def global_threshold(values: Float[Tensor, " n"], budget: int) -> Cut | None:
    """The cut that keeps the `budget` largest positive values over all processes; only inside `sharded_batch`.

    `values` are the n largest of each process (the same n, padded with zeros). None where these do not determine it: all
    values of a process are above the threshold, so it may hold more. That never happens at n >= budget. Synchronises the device.
    """
    assert _sharded is not None and budget <= _sharded.world * len(values)
    gathered = values.new_empty(_sharded.world, len(values))
    dist.all_gather_into_tensor(gathered.view(-1), values.contiguous())
    threshold = gathered.flatten().kthvalue(gathered.numel() - budget + 1).values.clamp_min(0)
    if bool((gathered.amin(1) > threshold).any()):
        return None
    ties = (gathered == threshold).sum(1) * (threshold > 0)
    left = budget - (gathered > threshold).sum()  # for those equal to the threshold, in the order of processes
    rank = dist.get_rank()
    return Cut(threshold, torch.minimum(ties[rank], (left - ties[:rank].sum()).clamp_min(0)))


def _reduced(x: Tensor, operation: Any) -> Tensor:
    reduced = x.detach().clone()
    dist.all_reduce(reduced, operation)
    return reduced


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, fraction: float) -> Tensor:
        reduced = x * fraction
        dist.all_reduce(reduced)
        return reduced

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return grads[0], None
