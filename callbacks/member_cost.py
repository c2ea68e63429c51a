"""Time and memory of each member's part of a step."""

import time
from typing import Any

import lightning as L
import torch

from saev.training.bank.module import BankModule, due


class MemberCost(L.Callback):
    """Adds `member_ms`, the time of a member's forward, backward, clipping and optimiser step, and on a GPU `member_gib`, its peak memory
    above what was allocated before; both of the logging step alone.

    Members are stepped one after the other: a part ends where the next one begins, the last one at Lightning's hook of the
    optimiser step. On a GPU times come from events, read at the end of the step; the allocator's peak before is kept in the module.
    """

    def __init__(self):
        self.marks: list[tuple[int, Any]] = []  # (member, start time); the end of the step as member -1
        self.memory: list[tuple[int, int, int]] = []  # (member, bytes allocated at its start, peak bytes until its end)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: BankModule, batch, batch_idx) -> None:  # type: ignore[override]
        if (trainer.global_step + 1) % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        self.marks, self.memory = [], []
        pl_module.before_member = lambda number: self._mark(number, pl_module)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: BankModule, optimizer) -> None:  # type: ignore[override]
        if pl_module.before_member is not None:
            self._mark(-1, pl_module)
            pl_module.before_member = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: BankModule, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        if not (due(trainer) and self.marks):
            return
        spent = [float("nan")] * len(pl_module.bank)  # of a member that was stopped
        for (number, start), (_, end) in zip(self.marks, self.marks[1:], strict=False):
            spent[number] = self._between(start, end)
        pl_module.latest["member_ms"] = list(spent)
        if pl_module.device.type == "cuda":
            most = [float("nan")] * len(pl_module.bank)
            for number, before, peak in self.memory:
                most[number] = (peak - before) / 2**30
            pl_module.latest["member_gib"] = list(most)

    def on_exception(self, trainer: L.Trainer, pl_module: BankModule, exception: BaseException) -> None:  # type: ignore[override]
        pl_module.before_member = None

    def _mark(self, number: int, pl_module: BankModule) -> None:
        if pl_module.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            now: Any = event
            held, peak = (
                torch.cuda.memory_allocated(),
                torch.cuda.max_memory_allocated(),
            )  # counters: nothing is waited for
            pl_module.peak_bytes = max(pl_module.peak_bytes, peak)
            if self.marks:
                last, before, _ = self.memory[-1]
                self.memory[-1] = last, before, peak
            if number >= 0:
                torch.cuda.reset_peak_memory_stats()
                self.memory.append((number, held, held))
        else:
            now = time.perf_counter()
        self.marks.append((number, now))

    @staticmethod
    def _between(start: Any, end: Any) -> float:
        if isinstance(start, float):
            return (end - start) * 1000
        end.synchronize()
        return start.elapsed_time(end)
