"""A grid of linear probes as a LightningModule, all fitted in one read of the data.

    batch -> features of each input, once -> for each probe: loss, backward, step of its parameter groups

Probes are independent but for the batch. An epoch ends where the trainer validates (`steps_per_epoch`); each probe is validated
there by its loss and may stop, after which it costs nothing; the fit ends when all have stopped. Validation during the fit
computes losses only; `trainer.validate`, after `restore_best`, computes all metrics.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from saev.ops import collective
from saev.training.bank.module import only
from saev.training.linear.inputs import Features, Input
from saev.training.linear.loss import ClassWeights, token_losses
from saev.training.linear.metrics import ProbeLoss, ProbeScores
from saev.training.linear.probe import Probe, ProbeSpec


class ProbeDDP(DDPStrategy):
    """Lightning's launch and collectives without DistributedDataParallel: the module all-reduces gradients per probe."""

    def configure_ddp(self) -> None:
        """No wrapping: DistributedDataParallel expects one backward pass per step, and there is one per probe."""


class ProbeModule(L.LightningModule):
    """Fits and validates a grid of probes on batches {"acts", "labels"} (datamodules.LabelledDataModule).

    Args:
        specs: the grid.
        inputs: the inputs named by the specs. They are not part of the module: neither trained nor in checkpoints.
        prior: initial logits, one per class.
        exclusive: labels are class numbers (softmax), or a bool of each class (sigmoids).
        weights: of the classes in the loss (`saev.training.linear.loss.class_weights`).
        steps_per_epoch: training steps between validations; the trainer's `val_check_interval`.
        patience: epochs without a lower validation loss after which a probe stops.
    """

    weights: Tensor | None

    def __init__(
        self,
        specs: Sequence[ProbeSpec],
        inputs: Mapping[str, Input],
        prior: Float[Tensor, " classes"],
        exclusive: bool,
        steps_per_epoch: int,
        patience: int = 3,
        weights: ClassWeights | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.inputs, self.exclusive, self.patience = dict(inputs), exclusive, patience
        self.steps_per_epoch, self.validated_step = steps_per_epoch, 0
        self.probes = nn.ModuleList(Probe(spec, self.inputs[spec.input].width, prior) for spec in specs)
        self.losses = nn.ModuleList(ProbeLoss(len(prior), exclusive) for _ in specs)
        self.scores: list[ProbeScores] = []  # only while all metrics are computed
        self.register_buffer("weights", weights, persistent=False)
        self.rows: list[dict[str, Any]] = []

    def configure_optimizers(self):
        groups = [group for probe in self._probes for group in probe.groups()]
        return torch.optim.AdamW(groups, fused=True)

    @property
    def _probes(self) -> list[Probe]:
        return cast(list[Probe], list(self.probes))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        wrapped: Any = self.optimizers()
        optimiser, labels = wrapped.optimizer, batch["labels"]
        features = self._features(batch["acts"], [probe for probe in self._probes if not probe.stopped])
        with collective.sharded_batch(len(labels), batch.get("tokens", len(labels))):
            for i, probe in enumerate(self._probes):
                if probe.stopped:
                    continue
                loss = token_losses(probe(features[probe.spec.input]), labels, self.weights).mean()
                collective.weight_by_fraction(loss).backward()
                collective.all_reduce_sum_(p.grad for p in probe.parameters() if p.grad is not None)
                with only(optimiser, *optimiser.param_groups[2 * i : 2 * i + 2]):
                    optimiser.step()
                    optimiser.zero_grad(set_to_none=True)
        with only(optimiser):  # no parameters: only for Lightning's count of steps
            wrapped.step()

    @torch.no_grad()
    def _features(self, acts: Float[Tensor, "batch d_model"], probes: Sequence[Probe]) -> dict[str, Features]:
        names = dict.fromkeys(probe.spec.input for probe in probes)
        return {name: self.inputs[name].features(acts) for name in names}

    def on_fit_start(self) -> None:
        """ValueError where the trainer would not step probes separately, or not validate at the ends of epochs."""
        if self.trainer.precision == "16-mixed":
            raise ValueError("precision=16-mixed scales the loss of all probes together: use bf16-mixed or 32-true.")
        if self.trainer.world_size > 1 and not isinstance(self.trainer.strategy, ProbeDDP):
            raise ValueError(
                f"{type(self.trainer.strategy).__name__} cannot fit probes in several processes: use ProbeDDP."
            )
        if self.trainer.val_check_interval != self.steps_per_epoch:
            raise ValueError(
                f"val_check_interval={self.trainer.val_check_interval} must be {self.steps_per_epoch}, the steps of an epoch."
            )

    def on_train_start(self) -> None:
        """Validate the epoch that had ended, but was not validated, when the checkpoint was saved."""
        if self._due:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            self.on_validation_epoch_start()
            with torch.no_grad():
                for i, batch in enumerate(data.val_dataloader()):
                    self.validation_step(data.transfer_batch_to_device(batch, self.device, 0), i)
            self.on_validation_epoch_end()

    @property
    def _due(self) -> bool:
        """Whether an epoch has ended that is not validated yet; Lightning also validates when it stops."""
        return self.global_step % self.steps_per_epoch == 0 and self.global_step > self.validated_step

    @property
    def _fitting(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING

    def on_validation_epoch_start(self) -> None:
        if not self._fitting:
            self.scores = [ProbeScores(len(p.bias), self.exclusive).to(self.device) for p in self._probes]
        for loss in self.losses:
            cast(ProbeLoss, loss).reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        active = [i for i, probe in enumerate(self._probes) if not (self._fitting and probe.stopped)]
        features = self._features(batch["acts"], [self._probes[i] for i in active])
        for i in active:
            logits = self._probes[i](features[self._probes[i].spec.input])
            cast(ProbeLoss, self.losses[i]).update(logits, batch["labels"], self.weights)
            if self.scores:
                self.scores[i].update(logits, batch["labels"])

    def on_validation_epoch_end(self) -> None:
        if not self._fitting:
            self.rows = [self._row(i) for i in range(len(self.probes))]
            self.scores = []
        elif self._due:
            self.validated_step = self.global_step
            for probe, loss in zip(self._probes, self.losses, strict=True):
                if not probe.stopped:
                    probe.end_epoch(float(cast(ProbeLoss, loss).compute()["loss"]), self.patience)
        if self._fitting and all(probe.stopped for probe in self._probes):
            self.trainer.should_stop = True

    def _row(self, i: int) -> dict[str, Any]:
        probe, precision = self._probes[i], self.scores[i].compute()
        numbers = {name: value.item() for name, value in cast(ProbeLoss, self.losses[i]).compute().items()}
        return {
            **probe.spec._asdict(), "epochs": probe.epoch, "best_epoch": probe.best_epoch, "failed": probe.failed,
            **numbers, "map": precision.nanmean().item(), "ap": precision.tolist(),
        }  # fmt: skip

    def restore_best(self) -> None:
        """Restore the parameters of every probe's best epoch."""
        for probe in self._probes:
            probe.restore()

    def chosen(self) -> dict[str, int]:
        """Per input, the index of the probe with the lowest validation loss."""
        best: dict[str, int] = {}
        for i, probe in enumerate(self._probes):
            known = best.get(probe.spec.input)
            if known is None or probe.best_loss < self._probes[known].best_loss:
                best[probe.spec.input] = i
        return best

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["probes"], checkpoint["validated_step"] = self._grid(), self.validated_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """ValueError where the checkpoint has another grid."""
        if checkpoint.get("probes") != self._grid():
            raise ValueError(
                f"the checkpoint's probes are {checkpoint.get('probes')}, this run's are {self._grid()}: resume with the settings of "
                "the interrupted run, or start in another directory."
            )
        self.validated_step = checkpoint["validated_step"]

    def _grid(self) -> list[str]:
        shape = f"{len(self._probes[0].bias)} {'exclusive' if self.exclusive else 'independent'} classes"
        return [shape, *(f"{probe.spec.name},width={len(probe.weight)}" for probe in self._probes)]
