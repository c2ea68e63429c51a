"""Coherence of the dictionaries: how similar their atoms are."""

import lightning as L

from saev.ops.coherence import coherence
from saev.training.bank.logging_steps import due
from saev.training.bank.module import BankModule


class Coherence(L.Callback):
    """Adds `coherence` (largest |cos| of two atoms) and `mean_max_cosine` (mean of each atom's largest).

    Costs d_sae^2 * d_model: computed every `every_n_steps` training steps (0: never) and at each validation.
    """

    def __init__(self, every_n_steps: int = 0):
        self.every_n_steps = every_n_steps

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: BankModule, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        if self.every_n_steps and due(trainer) and due(trainer, self.every_n_steps):
            pl_module.latest.update(self._measure(pl_module))

    def on_validation_end(self, trainer: L.Trainer, pl_module: BankModule) -> None:  # type: ignore[override]
        pl_module.validated.update(self._measure(pl_module))

    @staticmethod
    def _measure(pl_module: BankModule) -> dict[str, list]:
        values = [coherence(member.sae.atoms.detach()) for member in pl_module.bank]
        return {"coherence": [c.max for c in values], "mean_max_cosine": [c.mean_max for c in values]}
