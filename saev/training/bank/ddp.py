"""One bank trained by several processes that Lightning launches.

    split=batch     each process has the whole bank and steps it on its part of each batch; gradients are summed
    split=members   each process reads the whole batch and steps some of the members on it; no gradients are sent

Both give the results of a single process. The module is not wrapped in DistributedDataParallel, which expects one
backward pass per step; a bank has one per member.
"""

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch.optim import Optimizer

from saev.training.bank.division import ALONE, ByBatch, ByMembers, Division

DIVISIONS = {"batch": ByBatch(), "members": ByMembers()}


class BankDDP(DDPStrategy):
    """A process per device; `split`: the batches or the members are divided among them."""

    def __init__(self, split: str = "batch", **kwargs: Any):
        if split not in DIVISIONS:
            raise ValueError(f"trainer.strategy.split={split}: choose one of {', '.join(DIVISIONS)}.")
        super().__init__(**kwargs)
        self.split = split

    @property
    def division(self) -> Division:
        """How the processes divide the work."""
        return DIVISIONS[self.split] if dist.is_initialized() and self.world_size > 1 else ALONE

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """The part of the training data that this process reads, in Lightning's form."""
        return super().distributed_sampler_kwargs if self.split == "batch" else {"num_replicas": 1, "rank": 0}

    def configure_ddp(self) -> None:
        """Does nothing: `BankModule` sums the gradients."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The state of the whole bank; a collective."""
        assert self.lightning_module is not None
        self.division.synchronise(self.lightning_module.bank)  # type: ignore[arg-type]
        return super().lightning_module_state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of the whole bank, on the process that writes it; a collective."""
        return self.division.gather_state(super().optimizer_state(optimizer), self.root_device)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the state of the members that this process steps."""
        states = [self.division.own_state(state) for state in checkpoint["optimizer_states"]]
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": states})


def check_members(processes: int, n_members: int) -> None:
    """ValueError if there are fewer members than processes to divide them."""
    if processes > n_members:
        raise ValueError(
            f"trainer.strategy.split=members: {processes} processes (trainer.devices) for {n_members} SAEs, each of which is trained "
            f"by one process: take at most {n_members}, or trainer.strategy.split=batch."
        )
