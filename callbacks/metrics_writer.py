"""Writes all metrics of a run: to metrics.jsonl, and to the loggers of each member."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from saev.files import write_atomically
from saev.training.bank.logger_histograms import EDGES, log_histogram
from saev.training.bank.module import BankModule, due

RESULTS = ("nmse", "l0", "dead", "dense_above_0.1", "coherence")


class MetricsWriter(L.Callback):
    """Writes a line per member at every logging step and validation; must stand last among the callbacks.

    Counts by bin (callbacks' `distributions`, at validations) are lists in metrics.jsonl and histograms in TensorBoard and
    W&B; a csv has no place for them.

    `self.log` would cost a third of a millisecond per key and step; this costs one transfer per logging step.
    """

    def __init__(self, path: str | Path, loggers: Mapping[str, Sequence[Logger]]):
        self.path, self.loggers = Path(path), loggers
        self.validated_step = -1  # whose validation is written: the final one may repeat the last step's

    def on_train_start(self, trainer: L.Trainer, pl_module: BankModule) -> None:  # type: ignore[override]
        """Make the history of an interrupted run that of an undisturbed one: forget what it wrote after the checkpoint, and
        make up for a validation that it was stopped in, or before."""
        cut_off = False
        if self.path.is_file() and trainer.is_global_zero:
            lines = [line for line in self.path.read_text().splitlines() if _step(line) <= trainer.global_step]
            write_atomically(self.path, "".join(f"{line}\n" for line in lines).encode())
            every, last = trainer.val_check_batch, json.loads(lines[-1]) if lines else {}
            owed = isinstance(every, int) and trainer.global_step % every == 0 < trainer.global_step
            if last.get("split") == "val":
                self.validated_step = last["step"]
            cut_off = owed and (last.get("step"), last.get("split")) != (trainer.global_step, "val")
        if trainer.strategy.broadcast(cut_off):
            _validate(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: BankModule, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        if due(trainer):
            rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
            pl_module.latest["lr"] = rates
            pl_module.latest["sparsity_factor"] = [pl_module.sparsity_factor] * len(rates)
            values = pl_module.snapshot()
            rows = [{name: of[i] for name, of in values.items()} for i in range(len(pl_module.bank))]
            self._write(trainer, pl_module, "train", rows)

    def on_validation_end(self, trainer: L.Trainer, pl_module: BankModule) -> None:  # type: ignore[override]
        distributions: dict[str, list] = {}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            distributions |= getattr(callback, "distributions", {})
        counts = [{name: of[i].tolist() for name, of in distributions.items()} for i in range(len(pl_module.bank))]
        rows = pl_module.validated_rows()
        if trainer.global_step != self.validated_step:
            self._write(trainer, pl_module, "val", rows, counts)
        self.validated_step = trainer.global_step
        if trainer.state.fn == TrainerFn.VALIDATING and trainer.is_global_zero:  # the final validation
            self._write_results(pl_module, rows)

    def _write_results(self, pl_module: BankModule, rows: Sequence[Mapping[str, float]]) -> None:
        """Log the results with the settings, for TensorBoard's table of hyperparameters."""
        for member, row in zip(pl_module.bank, rows, strict=True):
            final = {f"final/{name}": row[name] for name in RESULTS if math.isfinite(row.get(name, math.nan))}
            for logger in self.loggers.get(member.name, ()):
                if isinstance(logger, TensorBoardLogger):
                    logger.log_hyperparams(logger.hparams, final)

    def _write(
        self,
        trainer: L.Trainer,
        pl_module: BankModule,
        split: str,
        rows: list[dict[str, Any]],
        counts: Sequence[Mapping[str, list[int]]] = (),
    ) -> None:
        if not trainer.is_global_zero:
            return
        counts = counts or [{}] * len(rows)
        step, tokens = trainer.global_step, int(pl_module.tokens_seen)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            for member, row, binned in zip(pl_module.bank, rows, counts, strict=True):
                known = {name: value for name, value in row.items() if math.isfinite(value)}
                line = {"step": step, "tokens": tokens, "member": member.name, "split": split, **known, **binned}
                file.write(json.dumps(line) + "\n")
                for logger in self.loggers.get(member.name, ()):
                    logger.log_metrics({f"{split}/{name}": value for name, value in known.items()}, step)
                    for name, of in binned.items():
                        log_histogram(logger, f"{split}/{name}", of, EDGES[name], step)

    def close(self) -> None:
        """Finish every logger, after fit and final validation."""
        for logger in (logger for of in self.loggers.values() for logger in of):
            logger.finalize("success")
            end = getattr(getattr(logger, "experiment", None), "finish", None)
            if end is not None:  # W&B, whose runs otherwise stay open until the process ends
                end()


def _validate(trainer: L.Trainer) -> None:
    """A validation before the first step, as Lightning's loop runs it after one."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False  # that would resume it in the middle
    trainer.validating = True
    loop.run()
    trainer.training = True


def _step(line: str) -> int:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):  # the last line of a killed run may be incomplete
        return 1 << 62
