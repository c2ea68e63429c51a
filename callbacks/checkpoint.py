"""One file to go on from: written at intervals, and when Ctrl-C or SIGTERM ends the run after the step they fall into."""

import logging
import os
import signal
import threading
from pathlib import Path
from types import FrameType

import lightning as L

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Checkpoint(L.Callback):
    """Saves `path` every `every_n_steps` steps, and once a signal has come; a second signal ends the run at once.

    Written under a temporary name in the same folder, then renamed: a kill leaves the last whole checkpoint.
    """

    def __init__(self, path: str | Path, every_n_steps: int):
        if every_n_steps < 1:
            raise ValueError(f"callbacks.checkpoint.every_n_steps={every_n_steps}: give at least 1 step.")
        self.path, self.every_n_steps = Path(path), every_n_steps
        self.received: int | None = None
        self.previous: dict = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self.previous = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        log.warning("%s: saving after this step (again: stop at once)", signal.Signals(number).name)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs, batch, batch_idx) -> None:
        stop = self.received is not None
        if trainer.world_size > 1:  # a signal to one process stops all of them, after the same step
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            self.received = self.received or (signal.SIGTERM if stop else None)
        if stop or trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)
        if stop:
            trainer.should_stop = True

    def _save(self, trainer: L.Trainer) -> None:
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(temporary)  # all processes take part
        if trainer.is_global_zero:
            os.replace(temporary, self.path)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._restore()
