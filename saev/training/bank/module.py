"""A bank of autoencoders as a LightningModule: one pass over the data trains every member.

    batch -> z -> for each member: losses, backward, clip, step of its own parameter group

Manual optimisation frees a member's graph and gradients before those of the next one are computed, so a further member costs
only its parameters and optimiser state. One optimiser has a parameter group per member, so `global_step` counts batches.
Metrics stay tensors on the device until a callback writes them (`callbacks/metrics_writer.py`): a step never synchronises.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from saev.metrics.stateful import ValidationMetrics
from saev.nn.bank import Losses, SAEBank, TrainingMember
from saev.nn.schedules import learning_rate_factor
from saev.ops import collective
from saev.ops.paths import checked
from saev.training.bank.division import ALONE, Division
from saev.training.bank.fusable import Fusable
from saev.training.bank.products import AUTOCAST, choose_products

log = logging.getLogger(__name__)

OptimiserFactory = Callable[[list[dict[str, Any]]], Optimizer]

STEP_METRICS = ("loss", "reconstruction", "sparsity", "aux", "z_mse", "l0", "gradient_norm")


class BankModule(L.LightningModule):
    """Trains and validates a bank.

    Args:
        bank: the members.
        optimiser: makes the optimiser from parameter groups, e.g. a partial of torch.optim.Adam.
        warmup: fraction of the run (from 1 on: steps) over which the learning rate rises.
        decay: fraction of the run, at its end, over which the learning rate falls to 0.
        clip: largest gradient norm of one member.
        products: how maps around sparse codes are computed: `sparse`, `dense`, within `fused` steps, the fastest of these here
            (`measured`, and what checkpoints keep), or `auto`: measured on a GPU, on a CPU by the fraction of active latents.
    """

    tokens_seen: Tensor

    def __init__(
        self,
        bank: SAEBank,
        optimiser: OptimiserFactory,
        warmup: float = 0.05,
        decay: float = 0.2,
        clip: float = 1.0,
        products: str = "auto",
    ):
        super().__init__()
        self.automatic_optimization = False
        self.bank, self.optimiser, self.warmup, self.decay, self.clip = bank, optimiser, warmup, decay, clip
        self.products, self.fusable = checked(products), Fusable()
        self.sparsity_factor = 1.0  # set by callbacks.SparsityWarmup
        self.register_buffer("tokens_seen", torch.zeros((), dtype=torch.int64))
        self.validation = ValidationMetrics(bank.normaliser.mean, [member.sae.n_latents for member in bank])
        self.before_member: Callable[[int], None] | None = None  # called with each member's number before its step
        self.peak_bytes = 0  # of the GPU's allocator, before a callback reset its counter
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
        wrapped: Any = self.optimizers()
        scheduler, optimiser = self.lr_schedulers(), wrapped.optimizer
        z = self.bank.normaliser(batch["acts"])
        tokens = batch.get("tokens", len(z))  # over all processes
        step: dict[str, list[Tensor | float]] = {}
        with self.division.sharing(len(z), tokens):
            for i, (member, group) in enumerate(zip(self.bank, optimiser.param_groups, strict=True)):
                trained = self.division.owns(i) and not member.stopped
                if trained and self.before_member is not None:
                    self.before_member(i)
                losses = self._member_step(member, z, optimiser, group) if trained else {}
                for name in STEP_METRICS:
                    step.setdefault(name, []).append(losses.get(name, torch.nan))
        with only(optimiser):  # steps no parameters: Lightning counts the step and calls its hooks
            wrapped.step()
        scheduler.step()  # type: ignore[union-attr, operator]
        self.tokens_seen.add_(tokens)
        self.latest = step

    def _member_step(
        self, member: TrainingMember, z: Tensor, optimiser: Optimizer, group: dict[str, Any]
    ) -> dict[str, Tensor]:
        stepped = None
        if self.fusable.takes(member, z.device, optimiser, group):
            stepped = self.fusable.steps.step(member, z, optimiser, group, self.clip, self.sparsity_factor)
        losses, norm = stepped or self._autograd_step(member, z, optimiser, group)
        return {**dict(zip(losses._fields, collective.all_reduce_means(losses), strict=True)), "gradient_norm": norm}

    def _autograd_step(
        self, member: TrainingMember, z: Tensor, optimiser: Optimizer, group: dict[str, Any]
    ) -> tuple[Losses, Tensor]:
        losses = member(z, self.sparsity_factor)
        # not manual_backward: its hooks, for loss scaling and wrappers, cost half a millisecond per member
        if losses.loss.requires_grad:  # not with freeze=all
            collective.weight_by_fraction(losses.loss).backward()
        collective.all_reduce_sum_(p.grad for p in member.sae.parameters() if p.grad is not None)
        norm = member.condition_gradients(self.clip)
        with only(optimiser, group):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        member.finish_step(losses.l0, self.sparsity_factor)
        return losses, norm

    @property
    def division(self) -> Division:
        """How the processes of this run divide the work."""
        return getattr(self.trainer.strategy, "division", ALONE)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["members"] = self._members()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """ValueError where the checkpoint's bank is not this one."""
        saved, current = checkpoint.get("members"), self._members()
        if saved != current:
            raise ValueError(
                f"the checkpoint's SAEs are {saved}, this run's are {current}: resume with the settings of the interrupted run "
                "(ckpt_path=last or ckpt_path=<run directory> alone takes them over), or start anew without ckpt_path."
            )

    def _members(self) -> dict[str, list[Any]]:
        return {
            m.name: [m.sae.sparsifier.settings.kind, type(m.objective).__name__, m.sae.n_latents, m.lr]
            + (["archetypal"] if m.sae.archetypes is not None else [])
            + ([f"freeze={m.freeze}"] if m.freeze != "none" else [])
            for m in self.bank
        }

    def on_fit_start(self) -> None:
        """ValueError where this trainer would not train members one by one, or each process its own bank."""
        if self.trainer.precision == "16-mixed":
            raise ValueError(
                "trainer.precision=16-mixed scales the loss of all members together: take bf16-mixed or 32-true."
            )
        if self.trainer.world_size > 1 and not hasattr(self.trainer.strategy, "division"):
            raise ValueError(
                f"trainer.strategy={type(self.trainer.strategy).__name__} does not divide a bank over {self.trainer.world_size} processes: "
                "take trainer=ddp."
            )
        tokens = getattr(self.trainer.datamodule, "batch_size", 4096)  # type: ignore[attr-defined]
        rows = self.division.rows(tokens)
        # of a parameter that is none of the bank's: those of the run are made later
        optimiser = self.optimiser([{"params": [torch.nn.Parameter(torch.zeros(2, 2))], "lr": 1.0}])
        precision, device = self.trainer.precision, self.device
        with self.division.sharing(rows, tokens):  # as in a step: what is chosen depends on the number of processes
            for member in self.bank:
                member.stopped = bool(member.failed)  # from the checkpoint
                choose_products(member, self.products, rows, device, precision, optimiser)
            # the first process decides, so that all processes and resumed runs use the same products
            agreed = self.division.agreed([member.products for member in self.bank])
            for member, products in zip(self.bank, agreed, strict=True):
                member.products = products
            self.fusable.settle([*self.bank], device, AUTOCAST.get(precision), optimiser, self.division.unanimous)

    def on_train_end(self) -> None:
        self.division.synchronise(self.bank)

    def snapshot(self) -> dict[str, list[float]]:
        """The last step's numbers on the host: metric -> a value per member, in one transfer; a collective.

        A member whose loss is not finite is stopped here; the others continue. Its NaN stays within its parameters, because members
        share no gradient, norm or optimiser state.
        """
        names = list(self.latest)
        values = [value for name in names for value in self.latest[name]]
        if not values:
            return {}
        flat = [torch.as_tensor(value, device=self.device, dtype=torch.float64) for value in values]
        table = self.division.complete(torch.stack(flat).view(len(names), -1)).cpu().tolist()
        metrics = dict(zip(names, table, strict=True))
        for member, loss, norm in zip(
            self.bank, metrics.get("loss", []), metrics.get("gradient_norm", []), strict=False
        ):
            if not member.stopped and not (math.isfinite(loss) and math.isfinite(norm)):
                member.stop()
                log.error(
                    "%s: loss %s, gradient norm %s at step %d: stopped", member.name, loss, norm, self.global_step
                )
        if all(member.stopped for member in self.bank):
            raise ValueError(
                "every SAE has diverged (loss or gradient not finite): lower lr, or check the activations."
            )
        return metrics

    def on_validation_epoch_start(self) -> None:
        self.division.synchronise(self.bank)
        self.validation.reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        x = batch["acts"].float()
        self.validation.update(x, (self._evaluate(member, x) for member in self.bank))

    def on_validation_epoch_end(self) -> None:
        per_member = self.validation.compute()
        self.validated = {name: [row[name] for row in per_member] for name in per_member[0]}

    def validated_rows(self) -> list[dict[str, float]]:
        """The last validation's numbers on the host: a dictionary per member, with what callbacks added."""
        return [{name: float(values[i]) for name, values in self.validated.items()} for i in range(len(self.bank))]

    @staticmethod
    def _evaluate(member: TrainingMember, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = member.sae.encode(x)
        return codes, member.sae.decode(codes)


def due(trainer: L.Trainer, every_n_steps: int | None = None) -> bool:
    """Whether the step just finished is a logging step (every `trainer.log_every_n_steps`, or as given)."""
    return trainer.global_step % (every_n_steps or trainer.log_every_n_steps) == 0  # type: ignore[attr-defined]


@contextlib.contextmanager
def only(optimiser: Optimizer, *groups: dict[str, Any]) -> Iterator[None]:
    """Within it the optimiser has these parameter groups alone; states are kept by parameter and stay."""
    every, optimiser.param_groups = optimiser.param_groups, list(groups)
    try:
        yield
    finally:
        optimiser.param_groups = every
