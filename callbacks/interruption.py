"""Ctrl-C and SIGTERM end a run after the step they fall into, with a checkpoint to go on from."""

import logging
import signal
import threading
from pathlib import Path
from types import FrameType

import lightning as L

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(L.Callback):
    """Saves `path` at the end of the current batch and stops the fit; a second signal ends it at once."""

    def __init__(self, path: str):
        self.path = Path(path)
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
        if self.received is not None and not trainer.should_stop:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._restore()
