"""The checkpoint to resume from: written at intervals, and on a signal (saev/runs/signals.py)."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import _TunerExitException

from saev.runs.signals import After, Signals, answer_slurm, rules


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
    Before the first batch and after the last there is nothing to save, and the earlier signal handlers act.

    Several processes meet before each step, when all have their batch, or several times a second while one is missing: so all
    learn of a signal to one of them, at the same step.

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
        self.group: dist.ProcessGroup | None = None  # of all processes, on the CPU: asking it waits for no device

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        answer_slurm()
        trainer.strategy.checkpoint_io = DirectIO()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.answer_signals = lambda: self._while_waiting(trainer)
        if trainer.world_size > 1:
            self.group = dist.new_group(backend="gloo")  # type: ignore[assignment]
            data.meet = lambda more: self._meet(trainer, more)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.listen()
        self._take_sigterm(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        save = trainer.global_step % self.every_n_steps == 0
        if save or self.group is None:  # several processes answer where they meet, before the next step
            self._answer(trainer, save)

    # the next hook after the step's metrics are written

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx) -> None:
        self._leave()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._leave()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        if trainer.world_size == 1:  # several have different numbers of batches; they answer where they meet
            self._answer(trainer)
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
        if not self.path.is_file():
            return "; nothing is saved yet: repeat the command"
        return f"; {'the last checkpoint' if self.saved is None else f'step {self.saved}'} is saved; {resume}"

    def _answer(
        self, trainer: L.Trainer, save: bool = False, ready: bool = True, more: bool = False
    ) -> tuple[bool, bool]:
        """Save and prepare to leave as the signals ask; with several processes, as a signal to any of them does, in all.

        Returns whether all processes are ready for the next step, and whether any has more batches.
        """
        number, after = self.signals.take()
        if self.group is not None:
            largest = torch.tensor([int(after), number or 0, not ready, more])
            dist.all_reduce(largest, dist.ReduceOp.MAX, self.group)
            strongest, number, waiting, others = largest.tolist()
            after, ready, more = After(strongest), not waiting, bool(others)
        if (save or after) and self.saved != trainer.global_step:
            self._save(trainer)
        self.leaving = max(self.leaving, after)
        if after == After.STOP:
            self.received = number
            if trainer.global_step != trainer.max_steps:
                trainer.should_stop = True
            else:  # only the final validation is left
                self.leaving = After.NOTHING
        return ready, more

    def _take_sigterm(self, trainer: L.Trainer) -> None:
        """Answer SIGTERM before the first step, for which Lightning would exit after it, without saving."""
        if trainer.received_sigterm:
            trainer._signal_connector.received_sigterm = False
            self.signals.received[signal.SIGTERM] = rules()[signal.SIGTERM]

    def _while_waiting(self, trainer: L.Trainer) -> None:
        """Answer a signal while a batch does not arrive; the processes that have theirs wait in `_meet`."""
        self._take_sigterm(trainer)
        self._answer(trainer, ready=False, more=True)
        self._leave()

    def _meet(self, trainer: L.Trainer, more: bool) -> bool:
        """Wait until every process has its batch, so that all answer a signal after the same step; whether any has more."""
        while True:
            ready, others = self._answer(trainer, more=more)
            self._leave()
            if ready:
                return others

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
