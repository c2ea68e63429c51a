"""Progress of a training run: a bar on a terminal, a log line per validation."""

import logging
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from saev.progress import terminal
from saev.training.bank.module import BankModule, due

log = logging.getLogger(__name__)

TIMED_STEPS = {
    "cpu": 5,
    "cuda": 50,
}  # at most, for the estimate of the remaining time; a GPU takes some milliseconds for each


class BankProgress(L.Callback):
    """Shows steps, remaining time and tokens per second; logs an estimate of the time after the first steps, and held-out NMSE and L0 of
    each member at validations.
    """

    def __init__(self):
        self.console = terminal(stderr=True)
        self.bar: Progress | None = None
        self.steps, self.since, self.tokens = (
            0,
            0.0,
            0,
        )  # of this process: steps, the end of the first, tokens since then
        self.timed = 0  # steps after the first that the estimate takes

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
        self.tokens += batch["tokens"] if self.steps > 1 else 0
        if self.steps in (1, 1 + self.timed):  # the first step sets things up
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()  # steps are queued
            now = time.perf_counter()
            if self.steps == 1:
                self.since, self.timed = now, timed_steps(trainer, pl_module.device)
            elif trainer.is_global_zero:
                left = int(trainer.max_steps) - trainer.global_step
                log.info(
                    estimate(len(pl_module.bank), self.tokens, self.timed, now - self.since, left, pl_module.device)
                )
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


def timed_steps(trainer: L.Trainer, device: torch.device) -> int:
    """Steps for the estimate: a tenth of the run, at most `TIMED_STEPS`; with reader=live a window, while the next is computed."""
    left = max(1, int(trainer.max_steps) - trainer.global_step)
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if getattr(data, "reader", "") == "live":
        return min(data.stream(data.train_examples).plan.batches_per_window, max(1, left // 2))
    least = TIMED_STEPS["cpu"]
    return max(least, min(TIMED_STEPS.get(device.type, least), left // 10))


def estimate(n_saes: int, tokens: int, steps: int, seconds: float, left: int, device: torch.device) -> str:
    """The time that `left` further steps take if `steps` steps of `tokens` tokens in all took `seconds`.

    >>> estimate(10, 50 * 16384, 50, 4.4, 6103, torch.device("cpu"))
    'about 9 min left for 10 SAEs x 100 M tokens on cpu: 190,000 tokens/s, 6103 steps of 0.088 s, without validation'
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    speed = float(f"{tokens / seconds:.2g}")
    return (
        f"about {duration(seconds / steps * left)} left for {n_saes} SAE{'s' * (n_saes > 1)} x {millions(tokens / steps * left)} tokens "
        f"on {name}: {speed:,.0f} tokens/s, {left} steps of {seconds / steps:.2g} s, without validation"
    )


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, to two digits.

    >>> duration(17.3), duration(540), duration(2 * 3600 + 720)
    ('17 s', '9 min', '2.2 h')
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return (
                f"{seconds / size:.1f} {unit}"
                if seconds < 9.5 * size and unit == "h"
                else f"{seconds / size:.0f} {unit}"
            )
    return f"{max(1, seconds):.0f} s"


def millions(tokens: float) -> str:
    """A number of tokens, to three digits.

    >>> millions(99_990_000), millions(100_000), millions(2_500_000)
    ('100 M', '0.1 M', '2.5 M')
    """
    return f"{tokens / 1e6:.3g} M"
