"""How well the latents tell classes, while they are learned."""

import logging
from typing import Any

import lightning as L
import torch

from saev.probing.data.sample import TRAIN, Sample, draw, labelled_store
from saev.probing.quick import quick_score
from saev.training.bank.module import BankModule

log = logging.getLogger(__name__)
NUMBERS = {"probe_r": "r", "probe_map": "map"}


class Probe(L.Callback):
    """At validations adds `probe_r` and `probe_map` of each class's best latent, on a few labelled images: `saev.probing.quick`.

    `probe_r` is 1 - cross-entropy / cross-entropy of the prevalences, both summed over classes; `probe_map` the mean over
    classes of the average precision. The best latent of a class is the one whose 1-D logistic probe has the least training
    loss. One half of the images fits, the other judges; both halves are the same at each validation, for every member and
    process, and after resuming. Several processes divide the members among them.

    Args:
        dataset: train: the activations that are trained on, of which images that are held out; or another recording
            of the same backbone, hook and layer. None: nothing is done.
        images: so many at most, drawn once.
        tokens: so many at most, drawn from these images and held in memory as they were recorded.

    A member costs one fit of d_sae * classes pairs (memory: `quick.score`). Measured with 3072 latents, 80 classes and 16384
    tokens on 2 cores of a CPU that had other work too: mostly 12 s for TopK with k=32, 40 to 60 s for ReLU after a few
    steps; 0.5 to 2 % of the 1000 steps of 16384 tokens (d_model 384) between two validations.
    """

    def __init__(self, dataset: str | None, images: int = 64, tokens: int = 16384):
        self.dataset, self.images, self.tokens = dataset, images, tokens
        self.sample: Sample | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Read the sample. ValueError where there are no labels, or activations of another width."""
        if self.dataset is None or self.sample is not None:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        store = data.store
        if self.dataset != TRAIN:
            store = labelled_store(self.dataset, data.layer, data.tokens, data.store.d_model)
        own = store.manifest.fingerprint == data.store.manifest.fingerprint
        among = data.val_examples if own else None  # never images that were trained on
        try:
            self.sample = draw(store, data.layer, data.tokens, among, self.images, self.tokens, data.ignore_labels)
        except ValueError as error:
            raise ValueError(f"probe.dataset={self.dataset}: {error}") from error
        train, val, classes = self.sample
        log.info(
            "probes of %d classes at each validation: fitted to %d tokens of %s, judged on %d",
            len(classes), len(train.labels), store.location.root, len(val.labels),
        )  # fmt: skip

    def on_validation_end(self, trainer: L.Trainer, pl_module: BankModule) -> None:  # type: ignore[override]
        if self.sample is None:
            return
        table = torch.zeros(len(NUMBERS), len(pl_module.bank), dtype=torch.float64, device=pl_module.device)
        for i, member in enumerate(pl_module.bank):  # all processes have all of them, as they are now
            if i % trainer.world_size == trainer.global_rank:
                found = {} if member.stopped else quick_score(member.sae, self.sample)
                table[:, i] = torch.tensor([found.get(name, torch.nan) for name in NUMBERS.values()])
        if trainer.world_size > 1:
            table = trainer.strategy.reduce(table, reduce_op="sum")
        pl_module.validated.update(zip(NUMBERS, table.tolist(), strict=True))
