"""Progress of a training run: a bar on a terminal, a log line per validation."""

import datetime
import logging
import time
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from saev.progress import terminal
from saev.training.bank.module import BankModule, due

log = logging.getLogger(__name__)

TIMED_STEPS = 5  # for the estimate of the remaining time


class BankProgress(L.Callback):
    """Shows steps, remaining time and tokens per second; logs held-out NMSE and L0 of each member at validations."""

    def __init__(self):
        self.console = terminal(stderr=True)
        self.bar: Progress | None = None
        self.steps, self.since = 0, 0.0  # steps of this process, and when the first has ended

    def on_train_start(self, trainer: L.Trainer, pl_module: BankModule) -> None:  # type: ignore[override]
        if not (self.console.is_terminal and trainer.is_global_zero):
            return
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=self.console)
        n = len(pl_module.bank)
        self.task = self.bar.add_task(
            f"Training {n} SAE{'s' * (n > 1)}", total=trainer.max_steps, completed=trainer.global_step, speed=""
        )
        self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: BankModule, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        self.steps += 1
        if self.steps == 1:  # the first step sets things up
            self.since = time.perf_counter()
        elif self.steps == 1 + TIMED_STEPS and trainer.is_global_zero:
            seconds = (time.perf_counter() - self.since) / TIMED_STEPS
            left = datetime.timedelta(seconds=round(seconds * (int(trainer.max_steps) - trainer.global_step)))
            log.info("about %s left: %d steps of %.2g s, without validation", left, trainer.max_steps, seconds)
        if self.bar is None:
            return
        speed: dict[str, Any] = {}
        if due(trainer) and "tokens_per_s" in pl_module.latest:
            speed = {"speed": f"{float(pl_module.latest['tokens_per_s'][0]):,.0f} tokens/s"}
        self.bar.update(self.task, completed=trainer.global_step, **speed)

    def on_validation_end(self, trainer: L.Trainer, pl_module: BankModule) -> None:  # type: ignore[override]
        if not trainer.is_global_zero or trainer.state.fn != TrainerFn.FITTING:  # the final validation prints a table
            return
        rows = zip(pl_module.bank.names, pl_module.validated_rows(), strict=True)
        metrics = "; ".join(f"{name}: NMSE {row['nmse']:.3f}, L0 {row['l0']:.1f}" for name, row in rows)
        log.info("step %d of %d, held out: %s", trainer.global_step, trainer.max_steps, metrics)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
