"""Several processes, one bank: each takes its part of the stream, gradients are averaged, counters agree.

The module is not wrapped in DistributedDataParallel, which expects one backward pass per step; a bank has one per member.
"""

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from saev.nn.bank import Member


class BankDDP(DDPStrategy):
    """Lightning's DDP launch and collectives, without its wrapper around the module."""

    def configure_ddp(self) -> None:
        """Nothing to wrap: `average_gradients` does what the wrapper's hooks would."""


def average_gradients(module: nn.Module) -> None:
    """Replace each parameter's gradient by its mean over processes (no effect in a single process)."""
    if not _several():
        return
    for parameter in module.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad.div_(dist.get_world_size())


@torch.no_grad()
def agree(member: Member, tokens: int) -> None:
    """After a step on `tokens` tokens here: silence counts the tokens of all processes, and theta is their mean."""
    if not _several():
        return
    world = dist.get_world_size()
    fired = (member.silent == 0).to(torch.int32)
    dist.all_reduce(fired, dist.ReduceOp.MAX)
    member.silent.add_(tokens * (world - 1)).mul_(fired == 0)
    theta = dict(member.sae.activation.named_buffers()).get("theta")
    if theta is not None:  # each process selects within its own batch
        dist.all_reduce(theta)
        theta.div_(world)


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a number that each process has for its part of the batch."""
    if not _several():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
