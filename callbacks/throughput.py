"""Training speed of the bank, without validation and start-up."""

import time

import lightning as L
import torch

from saev.training.bank.module import BankModule, due


class Throughput(L.Callback):
    """Adds `tokens_per_s` and `mb_per_s` (activations read) since the last logging step, and `gpu_gib` (peak) on a GPU.

    Tokens are those of all processes together. `average` is over the whole run: tokens per second of training, including the
    wait for data.
    """

    def __init__(self):
        self.tokens, self.seconds = 0, 0.0
        self.mark: tuple[float, int] | None = None

    @property
    def average(self) -> float:
        """Tokens per second over the run so far."""
        return self.tokens / self.seconds if self.seconds else float("nan")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: BankModule, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        self.tokens += batch["tokens"]
        if not due(trainer):
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()  # a logging step synchronises anyway
            peak = max(pl_module.peak_bytes, torch.cuda.max_memory_allocated())  # MemberCost resets the counter
            pl_module.latest["gpu_gib"] = [peak / 2**30] * len(pl_module.bank)
        now = time.perf_counter()
        if self.mark is not None:
            seconds, tokens = now - self.mark[0], self.tokens - self.mark[1]
            self.seconds += seconds
            acts = batch["acts"]
            pl_module.latest["tokens_per_s"] = [tokens / seconds] * len(pl_module.bank)
            pl_module.latest["mb_per_s"] = [tokens / seconds * acts[0].nbytes / 1e6] * len(pl_module.bank)
        else:  # the first interval includes warm-up and compilation
            self.tokens = 0
        self.mark = (now, self.tokens)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: BankModule) -> None:  # type: ignore[override]
        if self.mark is not None:
            self.mark = (self.mark[0] + time.perf_counter() - self.paused, self.mark[1])
        pl_module.validated["tokens_per_s"] = [self.average] * len(pl_module.bank)
