"""Warm-up of the sparsity penalty, from 0 to its full weight."""

import lightning as L

from saev.nn.schedules import sparsity_factor
from saev.training.bank.module import BankModule


class SparsityWarmup(L.Callback):
    """Linear over the first `fraction` of the run's steps."""

    def __init__(self, fraction: float = 0.05):
        if not 0 <= fraction <= 1:
            raise ValueError(
                f"callbacks.sparsity_warmup.fraction={fraction}: must be a fraction of the run, from 0 to 1."
            )
        self.fraction = fraction

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: BankModule, batch, batch_idx) -> None:  # type: ignore[override]
        pl_module.sparsity_factor = sparsity_factor(trainer.global_step, trainer.max_steps, self.fraction)
