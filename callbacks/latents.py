"""The latents of each member: dead ones, how often they fire, and how similar their atoms are."""

import lightning as L
import torch
from torch import Tensor

from saev.metrics.histograms import frequency_histogram
from saev.ops.coherence import coherence
from saev.training.bank.module import BankModule, due


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


class DeadUnits(L.Callback):
    """Adds `dead_train`, the fraction of latents that have not fired for the last `dead_tokens` training tokens.

    NaN, and so not written, until that many tokens were seen: no latent can count as dead before.
    The counters are in the bank (`tokens_since_fired`), because AuxK and checkpoints need them.
    """

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: BankModule, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        if due(trainer):
            pl_module.latest["dead_train"] = self._dead(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: BankModule) -> None:  # type: ignore[override]
        pl_module.validated["dead_train"] = self._dead(pl_module)

    @staticmethod
    def _dead(pl_module: BankModule) -> list:
        return [
            torch.where(pl_module.tokens_seen < member.dead_tokens, torch.nan, member.dead.float().mean())
            for member in pl_module.bank
        ]


class FrequencyHistogram(L.Callback):
    """At validations, counts of latents by log10 of the fraction of held-out tokens on which they fire (FREQUENCY_EDGES).

    `distributions`, read by `MetricsWriter`: name -> counts per member. Latents that never fire are in no bin.
    """

    def __init__(self):
        self.distributions: dict[str, list[Tensor]] = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: BankModule) -> None:  # type: ignore[override]
        metrics = pl_module.validation
        n = metrics.inputs.compute()["n"]
        firings = [activity.compute()["firings"] for activity in metrics.activity]  # type: ignore[operator, union-attr]
        self.distributions = {"frequency_histogram": [frequency_histogram(of, n) for of in firings]}
