"""Histogram of the latents' firing frequencies on held-out tokens."""

import lightning as L
from torch import Tensor

from saev.metrics.histograms import frequency_histogram
from saev.training.bank.module import BankModule


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
