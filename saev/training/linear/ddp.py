"""Linear probes in several processes: every batch and the validation tokens are sharded across ranks."""

import contextlib
from contextlib import AbstractContextManager

import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy

from saev.ops import collective


class ProbeDDP(DDPStrategy):
    """Lightning's launch and collectives without DistributedDataParallel: the module all-reduces gradients per probe."""

    def configure_ddp(self) -> None:
        """No wrapping: DistributedDataParallel expects one backward pass per step, and there is one per probe."""


def sharded_step(local: int, tokens: int) -> AbstractContextManager[None]:
    """`collective.sharded_batch` for a step on `local` of the global batch's `tokens`; no effect in a single process."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return collective.sharded_batch(local, tokens) if several else contextlib.nullcontext()
