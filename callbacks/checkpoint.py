"""The checkpoint to resume from: written at intervals, and on a signal (saev/runs/signals.py)."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import _TunerExitException

from saev.runs.signals import After, Signals, answer_slurm


class DirectIO(TorchCheckpointIO):
    """Writes the checkpoint where it is to be; Lightning's way holds two copies in memory and one in the temporary folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with open(path, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave an empty file of that name


class Checkpoint(L.Callback):
    """Saves `path` every `every_n_steps` steps, and after the current step when a signal has arrived, in all processes.

    After a signal the run stops without a validation, exits because its job is requeued, or continues until it is killed.
    Before the first step and after the last there is nothing to save, and the earlier signal handlers act.

    Written under a temporary name in the same folder, then renamed: a kill leaves the last complete checkpoint.
    """

    def __init__(self, path: str | Path, every_n_steps: int):
        if every_n_steps < 1:
            raise ValueError(f"callbacks.checkpoint.every_n_steps={every_n_steps}: must be at least 1.")
        self.path, self.every_n_steps = Path(path), every_n_steps
        self.signals = Signals()
        self.received: int | None = None  # the signal that stops the fit
        self.saved: int | None = None  # the step last saved here
        self.leaving = After.NOTHING

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        answer_slurm()
        trainer.strategy.checkpoint_io = DirectIO()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.listen()
        trainer.datamodule.answer_signals = lambda: self._while_waiting(trainer)  # type: ignore[attr-defined]
        if trainer.received_sigterm:  # during set-up; Lightning would exit after the first step, without saving
            trainer._signal_connector.received_sigterm = False
            self.signals.note(signal.SIGTERM)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        self._answer(trainer, save=trainer.global_step % self.every_n_steps == 0)

    # the next hook after the step's metrics are written

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx) -> None:
        self._leave()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._leave()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        """A validation may take long. Several processes cannot save or stop here together: they have different numbers of batches."""
        if trainer.world_size == 1:
            self._answer(trainer)
        elif self.saved == trainer.global_step and self.signals.pending == After.REQUEUE:
            self.leaving = After.REQUEUE
        self._leave()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.release()
        self._answer(trainer)
        self._leave()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Another process has answered the signal, and this one's collective lost it: it stops, too."""
        if trainer.world_size > 1 and self.signals.pending == After.STOP:
            self.received = self.signals.take()[0]

    def remedy(self, trainer: L.Trainer, directory: Path) -> str:
        """How a stopped fit resumes, after the words "stopped at step ...": what is saved, and the argument to type."""
        resume = f"resume with: ckpt_path={directory}"
        if self.saved == trainer.global_step:
            return f"; {resume}"
        why = " without saving, as a batch is missing and several processes save only together"
        if not self.path.is_file():
            return f"{why}; nothing is saved yet: repeat the command"
        return f"{why}; {'the last checkpoint' if self.saved is None else f'step {self.saved}'} is saved; {resume}"

    def _answer(self, trainer: L.Trainer, save: bool = False) -> None:
        number, after = self.signals.take()
        if trainer.world_size > 1:  # all processes act on a signal to one, after the same step
            strongest = torch.tensor(int(after), device=trainer.strategy.root_device)
            after = After(int(trainer.strategy.reduce(strongest, reduce_op="max")))
        if (save or after) and self.saved != trainer.global_step:
            self._save(trainer)
        self.leaving = after
        if after == After.STOP:
            self.received = number or signal.SIGTERM
            if trainer.global_step != trainer.max_steps:
                trainer.should_stop = True
            else:  # only the final validation is left
                self.leaving = After.NOTHING

    def _while_waiting(self, trainer: L.Trainer) -> None:
        """Answer a signal while a batch does not arrive. Other processes are at other batches, so several save nothing."""
        if self.signals.pending and trainer.world_size == 1:
            self._answer(trainer)
        elif self.signals.pending:
            number, self.leaving = self.signals.take()
            self.received = number or signal.SIGTERM
        self._leave()

    def _leave(self) -> None:
        if self.leaving == After.REQUEUE:
            self.signals.leave()
        if self.leaving == After.STOP:
            self.signals.release()
            # as Lightning's own callbacks end a fit at once; `should_stop` would validate first
            raise _TunerExitException

    def _save(self, trainer: L.Trainer) -> None:
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            trainer.save_checkpoint(temporary)  # all processes take part
        except BaseException:  # a full disk: leave the room to what is complete
            temporary.unlink(missing_ok=True)
            raise
        if trainer.is_global_zero:
            os.replace(temporary, self.path)
        self.saved = trainer.global_step
