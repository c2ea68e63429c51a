"""Fractions of dead latents, by training tokens since they last fired."""

import lightning as L

from saev.training.bank.logging_steps import due
from saev.training.bank.module import BankModule


class DeadUnits(L.Callback):
    """Adds `dead`, the fraction of latents that have not fired for `auxk.dead_tokens` training tokens.

    The counters are in the bank (`tokens_since_fired`), because AuxK and checkpoints need them.
    """

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: BankModule, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        if due(trainer):
            pl_module.latest["dead"] = self._dead(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: BankModule) -> None:  # type: ignore[override]
        pl_module.validated["dead"] = self._dead(pl_module)

    @staticmethod
    def _dead(pl_module: BankModule) -> list:
        return [member.dead.float().mean() for member in pl_module.bank]
