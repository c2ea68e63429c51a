"""How well the stream is shuffled, compared with a perfect shuffle of the same data."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from saev.metrics.mixing import batch_entropy, expected_entropy, expected_mates, mates
from saev.shards.selection import per_image, per_label, per_position
from saev.training.bank.module import BankModule, due


class Mixing(L.Callback):
    """Adds `<group>_entropy` (bits) and `<group>_entropy_fraction` of a perfect shuffle's, at logging steps.

    Groups are images, token positions, classes of images and labels of patches, as far as the dataset has them; for images also
    `image_mates`, the number of other tokens of the same image in a batch, and `image_mates_perfect`. Batches are those of
    all processes together.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        stream = data.stream(data.train_examples)
        runs, batch = stream.plan.spans, min(data.batch_size, stream.n_tokens)
        images = per_image(runs, len(stream.tokens))
        groups: dict[str, Any] = {"image": images, "position": per_position(runs)}
        self.classes = classes_of(data.store)
        if self.classes is not None:
            groups["class"] = torch.bincount(self.classes, torch.from_numpy(images).double())
        if stream.labels is not None:
            groups["label"] = per_label(runs, stream.tokens, stream.labels)
        populations = {group: torch.as_tensor(counts).long() for group, counts in groups.items()}
        self.perfect = {group: expected_entropy(counts, batch) for group, counts in populations.items()}
        self.perfect_mates = expected_mates(populations["image"], batch)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: BankModule, outputs, batch, batch_idx) -> None:  # type: ignore[override]
        if not due(trainer):
            return
        ids = {"image": batch["example"], "position": batch["token"].long()}
        if self.classes is not None:
            ids["class"] = self.classes.to(batch["example"].device)[batch["example"]]
        if "label" in batch:
            ids["label"] = batch["label"].long()
        if batch["tokens"] > len(batch["example"]):  # other processes hold the rest
            ids = {group: torch.cat(gather_all_tensors(local)) for group, local in ids.items()}
        metrics: dict[str, Tensor | float] = {
            "image_mates": mates(ids["image"]),
            "image_mates_perfect": self.perfect_mates,
        }
        for group, values in ids.items():
            entropy, perfect = batch_entropy(values), self.perfect[group]
            metrics[f"{group}_entropy"] = entropy
            metrics[f"{group}_entropy_fraction"] = entropy / perfect if perfect else 1.0
        for name, value in metrics.items():
            pl_module.latest[name] = [value] * len(pl_module.bank)


def classes_of(store: Any) -> Tensor | None:
    """The class of each image as a number, where examples.parquet has the column `class`."""
    if "class" not in store.examples.columns:
        return None
    return torch.from_numpy(store.examples["class"].cast(str).rank("dense").fill_null(0).to_numpy().astype("int64"))
