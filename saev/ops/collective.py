"""Numbers of a batch that several processes hold parts of. Outside `sharded_batch(...)` a batch is one process's own: all are identities.

A mean over the whole batch is the sum over processes of fraction * (mean over the part), fraction being the part's tokens among all.
So each process goes backward from fraction * (its own loss), and the gradients are added up. What is no mean of terms of single
tokens (a selection over the batch, a square of a mean) is made of whole-batch numbers before.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor


class ShardedBatch(NamedTuple):
    """How the batch in hand is divided."""

    tokens: int  # of the whole batch
    fraction: float  # of them, those of this process
    world: int


_sharded: ShardedBatch | None = None


@contextlib.contextmanager
def sharded_batch(here: int, tokens: int) -> Iterator[None]:
    """Within it the batch in hand, of `here` tokens, is this process's part of one of `tokens`, divided over all processes.

    All processes must make the same calls within it, in the same order.
    """
    global _sharded
    before, _sharded = _sharded, ShardedBatch(tokens, here / tokens, dist.get_world_size())
    try:
        yield
    finally:
        _sharded = before


def world_size() -> int:
    """How many processes fraction the batch."""
    return 1 if _sharded is None else _sharded.world


def global_batch_size(here: int) -> int:
    """The tokens of the whole batch, `here` being those of this process."""
    return here if _sharded is None else _sharded.tokens


def weight_by_fraction(mean: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """fraction * mean, which adds up over processes to the whole batch's mean."""
    return mean if _sharded is None else mean * _sharded.fraction


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum over processes, without a graph."""
    return x if _sharded is None else _reduced(x, dist.ReduceOp.SUM)


def all_reduce_min(x: Tensor) -> Tensor:
    """The minimum over processes, entry by entry, without a graph."""
    return x if _sharded is None else _reduced(x, dist.ReduceOp.MIN)


def all_reduce_mean(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The whole batch's mean, x being the mean over this process's part.

    Backward passes the gradient on as it is: the fraction is that of the loss, which `weight_by_fraction` gives it.
    """
    return x if _sharded is None else _Mean.apply(x, _sharded.fraction)  # type: ignore[return-value]


def all_reduce_means(values: Sequence[Float[Tensor, ""]]) -> list[Float[Tensor, ""]]:
    """`all_reduce_mean` of several scalars in one message, without a graph."""
    if _sharded is None:
        return [value.detach() for value in values]
    return list(all_reduce_mean(torch.stack([value.detach().float() for value in values])).unbind())


def all_reduce_sum_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over processes, all of them under way at the same time."""
    if _sharded is not None:
        for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()  # type: ignore[union-attr]


class Cut(NamedTuple):
    """Which of its values a process keeps: those above `threshold`, and of those equal to it any `ties`."""

    threshold: Float[Tensor, ""]
    ties: Int[Tensor, ""]


def global_threshold(values: Float[Tensor, " n"], budget: int) -> Cut | None:
    """The cut that keeps the `budget` largest positive values over all processes, to be called within `sharded_batch` alone.

    `values` are the n largest of each process (n the same everywhere, padded with zeros). None where they do not tell: all
    values of a process are above the threshold, so it may hold more. That never happens at n >= budget. Waits for the device.
    """
    assert _sharded is not None and budget <= _sharded.world * len(values)
    everyones = values.new_empty(_sharded.world, len(values))
    dist.all_gather_into_tensor(everyones.view(-1), values.contiguous())
    threshold = everyones.flatten().kthvalue(everyones.numel() - budget + 1).values.clamp_min(0)
    if bool((everyones.amin(1) > threshold).any()):
        return None
    ties = (everyones == threshold).sum(1) * (threshold > 0)
    left = budget - (everyones > threshold).sum()  # for those equal to the threshold, in the order of processes
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
