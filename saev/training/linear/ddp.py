"""Several processes that fit linear probes together: each takes its part of every batch and of the validation tokens."""

import contextlib
from contextlib import AbstractContextManager

import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy

from saev.ops import collective


class ProbeDDP(DDPStrategy):
    """Lightning's launch and collectives alone: the module adds up gradients itself, probe by probe."""

    def configure_ddp(self) -> None:
        """Nothing to wrap: DistributedDataParallel expects one backward pass per step, and there is one per probe."""


def sharing(here: int, tokens: int) -> AbstractContextManager[None]:
    """Around a step on `here` of the whole batch's `tokens`, as in `collective.sharded_batch`; nothing in a single process."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return collective.sharded_batch(here, tokens) if several else contextlib.nullcontext()
