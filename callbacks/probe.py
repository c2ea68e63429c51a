"""Probes of the latents during training."""

import logging
from typing import Any

import lightning as L
import torch

from saev.probing.quick import quick_score
from saev.probing.sample import TRAIN, Sample, draw_sample, labelled_store
from saev.training.bank.module import BankModule

log = logging.getLogger(__name__)
NUMBERS = {"probe_r": "r", "probe_map": "map"}


class Probe(L.Callback):
    """Adds `probe_r` and `probe_map` of each class's best latent, on a few labelled images, at validations (`saev.probing.quick`).

    `probe_r` is 1 - cross-entropy / cross-entropy of the prevalences, both summed over classes; `probe_map` the mean over
    classes of the average precision. The best latent of a class is the one whose 1-D logistic probe has the lowest training
    loss. Probes are fitted on one half of the images and evaluated on the other; the halves are the same at each validation, for
    every member and process, and after resuming. Members are divided among the processes.

    Args:
        dataset: train: held-out images of the training activations; or another recording of the same backbone, hook and
            layer. None: no probes.
        images: their largest number, drawn once.
        tokens: their largest number, drawn from these images and kept in memory in the recorded dtype.

    A member costs one fit of d_sae * classes pairs (memory: `quick_score`). Measured with 3072 latents, 80 classes and 16384
    tokens on 2 busy CPU cores: mostly 12 s for TopK with k=32, 40 to 60 s for ReLU after a few steps;
    0.5 to 2 % of the 1000 steps of 16384 tokens (d_model 384) between two validations.
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
        same = store.manifest.fingerprint == data.store.manifest.fingerprint
        if data.reader == "live":  # a recording of the same images holds out the same ones
            same = store.manifest.meaning.get("images") == data.store.manifest.meaning.get("images")
        among = data.val_examples if same else None  # never images that are trained on
        try:
            self.sample = draw_sample(
                store, data.layer, data.tokens, among, self.images, self.tokens, data.ignore_labels
            )
        except ValueError as error:
            raise ValueError(f"probe.dataset={self.dataset}: {error}") from error
        train, val, classes = self.sample
        log.info(
            "probes of %d classes at each validation: fitted to %d tokens of %s, evaluated on %d",
            len(classes), len(train.labels), store.location.root, len(val.labels),
        )  # fmt: skip

    def on_validation_end(self, trainer: L.Trainer, pl_module: BankModule) -> None:  # type: ignore[override]
        if self.sample is None:
            return
        table = torch.zeros(len(NUMBERS), len(pl_module.bank), dtype=torch.float64, device=pl_module.device)
        for i, member in enumerate(pl_module.bank):  # all processes hold all members
            if i % trainer.world_size == trainer.global_rank:
                scores = {} if member.stopped else quick_score(member.sae, self.sample)
                table[:, i] = torch.tensor([scores.get(name, torch.nan) for name in NUMBERS.values()])
        if trainer.world_size > 1:
            table = trainer.strategy.reduce(table, reduce_op="sum")
        pl_module.validated.update(zip(NUMBERS, table.tolist(), strict=True))
