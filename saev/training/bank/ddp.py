"""Several processes, one bank: Lightning's launch and collectives, and how the work is divided.

    split=batch     every process holds the whole bank and steps it on its part of each batch
    split=members   every process reads the whole batch and steps its own members on it; no gradient is ever sent

Either way the numbers are those of a single process. The module is not wrapped in DistributedDataParallel, which expects one
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
    """A process per device; `split` says what is divided among them: each batch, or the members."""

    def __init__(self, split: str = "batch", **kwargs: Any):
        if split not in DIVISIONS:
            raise ValueError(f"trainer.strategy.split={split}: choose one of {', '.join(DIVISIONS)}.")
        super().__init__(**kwargs)
        self.split = split

    @property
    def division(self) -> Division:
        """How the processes that there are divide the work."""
        return DIVISIONS[self.split] if dist.is_initialized() and self.world_size > 1 else ALONE

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Which part of the training data this process reads, as Lightning asks for it."""
        return super().distributed_sampler_kwargs if self.split == "batch" else {"num_replicas": 1, "rank": 0}

    def configure_ddp(self) -> None:
        """Nothing to wrap: `BankModule` adds up the gradients."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole bank's; a collective."""
        assert self.lightning_module is not None
        self.division.synchronise(self.lightning_module.bank)  # type: ignore[arg-type]
        return super().lightning_module_state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole bank's, on the process that writes it; a collective."""
        return self.division.gather_state(super().optimizer_state(optimizer), self.root_device)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Of the whole bank's state, what concerns the members that are stepped here."""
        states = [self.division.own_state(state) for state in checkpoint["optimizer_states"]]
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": states})


def check_members(processes: int, n_members: int) -> None:
    """ValueError where, the members being divided, some processes would have none."""
    if processes > n_members:
        raise ValueError(
            f"trainer.strategy.split=members: {processes} processes (trainer.devices) for {n_members} SAEs, each of which is trained "
            f"by one process: take at most {n_members}, or trainer.strategy.split=batch."
        )
