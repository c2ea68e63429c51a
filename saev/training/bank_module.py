"""A bank of autoencoders as a LightningModule: one pass over the data trains every member.

    batch -> z -> for each member: losses, backward, clip ; then one fused optimiser step for all

Manual optimisation: a member's graph is freed before the next one's is built, and one optimiser with a parameter group
per member keeps `global_step` equal to the number of batches. Numbers stay tensors on the device until a callback writes
them (`callbacks/metrics_writer.py`); a step never waits for the device.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from saev.metrics.stateful import ValidationMetrics
from saev.nn.bank import Member, SAEBank
from saev.nn.schedules import learning_rate_factor
from saev.training.distributed import agree, average_gradients, mean_over_processes

log = logging.getLogger(__name__)

OptimiserFactory = Callable[[Iterable[Mapping[str, Any]]], Optimizer]

STEP_METRICS = ("loss", "reconstruction", "sparsity", "aux", "z_mse", "l0", "gradient_norm")


class BankModule(L.LightningModule):
    """Trains and validates a bank.

    Args:
        bank: the members.
        optimiser: makes the optimiser from parameter groups, e.g. a partial of torch.optim.Adam.
        warmup: learning-rate warm-up in steps.
        decay: share of the run over which the learning rate falls to 0 at the end.
        clip: largest gradient norm of one member.
    """

    tokens_seen: Tensor

    def __init__(
        self, bank: SAEBank, optimiser: OptimiserFactory, warmup: int = 1000, decay: float = 0.2, clip: float = 1.0
    ):
        super().__init__()
        self.automatic_optimization = False
        self.bank, self.optimiser, self.warmup, self.decay, self.clip = bank, optimiser, warmup, decay, clip
        self.sparsity_factor = 1.0  # set by callbacks.SparsityWarmup
        self.register_buffer("tokens_seen", torch.zeros((), dtype=torch.int64))
        self.validation = ValidationMetrics(bank.normaliser.mean, [member.sae.n_latents for member in bank])
        self.latest: dict[str, list[Tensor | float]] = {}  # metric -> a value per member, of the last step
        self.validated: dict[str, list[Tensor | float]] = {}  # the same, of the last validation

    def configure_optimizers(self):
        groups = [{"params": list(member.sae.parameters()), "lr": member.lr} for member in self.bank]
        optimiser = self.optimiser(groups)
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            return learning_rate_factor(step, total, self.warmup, self.decay)

        return {"optimizer": optimiser, "lr_scheduler": LambdaLR(optimiser, factor)}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        optimiser, scheduler = self.optimizers(), self.lr_schedulers()
        z = self.bank.normaliser(batch["acts"])
        step: dict[str, list[Tensor | float]] = {}
        for member in self.bank:
            losses = {} if member.stopped else self._member_step(member, z)
            for name in STEP_METRICS:
                step.setdefault(name, []).append(losses.get(name, torch.nan))
        optimiser.step()  # type: ignore[union-attr]
        optimiser.zero_grad(set_to_none=True)  # type: ignore[union-attr]
        scheduler.step()  # type: ignore[union-attr, operator]
        for member, l0 in zip(self.bank, step["l0"], strict=True):
            if not member.stopped:
                member.finish_step(mean_over_processes(torch.as_tensor(l0)), self.sparsity_factor)
            agree(member, len(z))
        self.tokens_seen.add_(len(z) * self.trainer.world_size)
        self.latest = step

    def _member_step(self, member: Member, z: Tensor) -> dict[str, Tensor]:
        losses = member(z, self.sparsity_factor)
        self.manual_backward(losses.loss)
        average_gradients(member.sae)
        norm = member.condition_gradients(self.clip)
        return {**{name: value.detach() for name, value in losses._asdict().items()}, "gradient_norm": norm}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["members"] = self._members()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """ValueError where the checkpoint's bank is not this one."""
        saved, ours = checkpoint.get("members"), self._members()
        if saved != ours:
            raise ValueError(
                f"the checkpoint's SAEs are {saved}, this run's are {ours}: resume with the settings of the interrupted run "
                "(ckpt_path=last or ckpt_path=<run directory> alone takes them over), or start anew without ckpt_path."
            )

    def _members(self) -> dict[str, list[Any]]:
        return {
            m.name: [type(m.sae.activation).__name__, type(m.objective).__name__, m.sae.n_latents, m.lr]
            + (["archetypal"] if m.sae.archetypes is not None else [])
            for m in self.bank
        }

    def on_fit_start(self) -> None:
        for member in self.bank:
            member.stopped = bool(member.failed)  # as the checkpoint says

    def snapshot(self) -> dict[str, list[float]]:
        """The last step's numbers on the host: metric -> a value per member, in one transfer.

        This is where a member whose loss is no longer finite is noticed: it is stopped and the others go on. Until then
        its NaN stays within its own parameters, as members share no gradient, norm or optimiser state.
        """
        names = list(self.latest)
        flat = [
            torch.as_tensor(v, device=self.device, dtype=torch.float64) for name in names for v in self.latest[name]
        ]
        table = torch.stack(flat).view(len(names), -1).cpu().tolist() if flat else []
        values = dict(zip(names, table, strict=True))
        for member, loss, norm in zip(self.bank, values.get("loss", []), values.get("gradient_norm", []), strict=False):
            if not member.stopped and not (math.isfinite(loss) and math.isfinite(norm)):
                member.stop()
                log.error(
                    "%s: loss %s, gradient norm %s at step %d: stopped", member.name, loss, norm, self.global_step
                )
        if values and all(member.stopped for member in self.bank):
            raise ValueError(
                "every SAE has diverged (loss or gradient is not finite): lower lr, or check the activations."
            )
        return values

    def on_validation_epoch_start(self) -> None:
        self.validation.reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        x = batch["acts"].float()
        self.validation.update(x, (self._evaluate(member, x) for member in self.bank))

    def on_validation_epoch_end(self) -> None:
        per_member = self.validation.compute()
        self.validated = {name: [row[name] for row in per_member] for name in per_member[0]}
        # `dead` alone is the training window's (callbacks.DeadUnits): held-out tokens may be few
        self.validated["dead_val"] = self.validated.pop("dead")

    def validated_rows(self) -> list[dict[str, float]]:
        """The last validation's numbers on the host: a dictionary per member, with what callbacks added."""
        return [{name: float(values[i]) for name, values in self.validated.items()} for i in range(len(self.bank))]

    @staticmethod
    def _evaluate(member: Member, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = member.sae.encode(x)
        return codes, member.sae.decode(codes)
