"""A page that is written during training, so that one can look at a run before its end."""

import logging
import time
from collections.abc import Callable

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

log = logging.getLogger(__name__)
FRACTION = 0.05  # of the time, at most, goes into pages


class Page(L.Callback):
    """Calls `write` after validations during training, in the first process; an error is logged, and the training goes on.

    A validation is passed over where the page would take more than FRACTION of the time since the last one. Must stand behind
    MetricsWriter, whose lines the page reads.
    """

    def __init__(self, write: Callable[[L.Trainer, L.LightningModule], object]):
        self.write, self.not_before = write, 0.0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        start = time.monotonic()
        if not trainer.is_global_zero or trainer.state.fn != TrainerFn.FITTING or start < self.not_before:
            return
        try:
            self.write(trainer, pl_module)
        except Exception:
            log.exception("the page of the run could not be written; the training goes on")
        now = time.monotonic()
        self.not_before = now + (now - start) / FRACTION
