"""Several processes, one bank: each takes its part of the stream, gradients are averaged, counters agree.

The module is not wrapped in DistributedDataParallel, which expects one backward pass per step; a bank has one per member.
"""

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from saev.nn.activations import BatchTopK
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
    if isinstance(member.sae.activation, BatchTopK):  # each process selects within its own batch
        dist.all_reduce(member.sae.activation.theta)
        member.sae.activation.theta.div_(world)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
