"""How well the stream is shuffled, beside a perfect shuffle of the same data."""

import lightning as L
import torch

from callbacks.when import due
from saev.metrics.mixing import batch_entropy, expected_entropy, mates
from saev.training.bank_module import BankModule


class Mixing(L.Callback):
    """Adds `image_entropy` (bits), its share of a perfect shuffle's, and `image_mates` (other tokens of one's image)."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        plan = trainer.datamodule.stream(trainer.datamodule.train_examples).plan  # type: ignore[attr-defined]
        per_image = torch.from_numpy(plan.stop - plan.start)
        self.perfect = expected_entropy(per_image, min(plan.batch_size, plan.n_tokens))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: BankModule, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        if not due(trainer):
            return
        entropy, n = batch_entropy(batch["example"]), len(pl_module.bank)
        pl_module.latest["image_entropy"] = [entropy] * n
        pl_module.latest["image_entropy_share"] = [entropy / self.perfect if self.perfect else 1.0] * n
        pl_module.latest["image_mates"] = [mates(batch["example"])] * n
