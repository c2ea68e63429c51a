"""A grid of linear probes on a tiny recording with classes to find, as the tests of this folder and their processes fit it."""

from pathlib import Path

import lightning as L
import numpy as np
import torch

from datamodules import LabelledDataModule
from saev.nn import Normaliser, SparseAutoencoder, TopK
from saev.shards import RecordingWriter
from saev.training.linear.inputs import inputs_of
from saev.training.linear.loss import class_weights, prior_logits
from saev.training.linear.module import ProbeModule
from saev.training.linear.probe import grid

N_IMAGES, SIDE, D_MODEL, N_CLASSES = 40, 4, 12, 3
LRS, DECAYS = [0.3, 1e-2], [0.0, 0.1]


def image(example: int) -> tuple[np.ndarray, np.ndarray]:
    """Activations [16, 12] and labels of an image: a class shifts the mean, some patches are void."""
    rng = np.random.default_rng(example)
    labels = rng.choice([*range(N_CLASSES), 65535], SIDE**2, p=[0.5, 0.3, 0.1, 0.1])
    means = np.random.default_rng(99).normal(size=(N_CLASSES + 1, D_MODEL))
    acts = means[np.minimum(labels, N_CLASSES)] + 1.5 * rng.normal(size=(SIDE**2, D_MODEL))
    return acts.astype(np.float32), labels.astype(np.uint16)


def record_classes(root: Path) -> Path:
    meaning = {"images": {"name": "synthetic"}, "vit": {"name": "none", "image_size": [12, 8], "grid": [SIDE, SIDE]}}
    info = {"method": "majority", "classes": {"0": "sky", "1": "sea", "2": "sun"}}
    writer = RecordingWriter(root, meaning, N_IMAGES, 15, (1,), {"patches": -1}, D_MODEL, "float32", labels=info)
    for i in writer.pending():
        with writer.shard(i) as shard:
            for example in writer.examples_of(i):
                acts, labels = image(example)
                row = {
                    "key": f"{example}",
                    "path": f"{example}.jpg",
                    "grid_h": SIDE,
                    "grid_w": SIDE,
                    "video": f"{example // 4}",
                }
                shard.add(example, {1: acts}, row, labels, np.ones(len(labels), np.float16))
    writer.finish()
    return root


def dictionary(d_sae: int = 96, k: int = 4) -> SparseAutoencoder:
    """Untrained, sparse enough for products with pairs."""
    torch.manual_seed(0)
    sae = SparseAutoencoder(D_MODEL, d_sae, TopK(k), Normaliser(torch.zeros(D_MODEL), torch.ones(())))
    torch.nn.init.normal_(sae.w_enc)
    return sae.eval()


def build(
    dataset, inputs=("raw", "codes"), lrs=LRS, decays=DECAYS, epochs=6, patience=2, weights="none", callbacks=(),
    parts=None, labels=None, points=None, **trainer,
):  # fmt: skip
    data = LabelledDataModule(str(dataset), 1, 48, val_fraction=0.25, parts=parts, labels=labels)
    data.setup("fit")
    normaliser = Normaliser.fit(data.store.moments(1))
    n_tokens, counts = data.class_counts()
    positives, exclusive = torch.from_numpy(counts), data.labels[0].exclusive
    steps = data.n_steps()
    module = ProbeModule(
        points or grid(inputs, lrs, decays), inputs_of(inputs, normaliser, {"codes": dictionary()}),
        prior_logits(n_tokens, positives, exclusive), exclusive, steps, patience,
        class_weights(weights, n_tokens, positives, exclusive),
    )  # fmt: skip
    settings = {
        "accelerator": "cpu", "max_steps": epochs * steps, "max_epochs": -1, "val_check_interval": steps,
        "check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "logger": False, "callbacks": list(callbacks),
        "use_distributed_sampler": False,
        **{f"enable_{what}": False for what in ("checkpointing", "progress_bar", "model_summary")},
    }  # fmt: skip
    return L.Trainer(**{**settings, **trainer}), module, data


def tokens_of(examples) -> tuple[np.ndarray, np.ndarray]:
    """Activations and classes of the labelled tokens of some images."""
    acts, labels = (np.concatenate(parts) for parts in zip(*(image(int(e)) for e in examples), strict=True))
    return acts[labels < 65535], labels[labels < 65535].astype(int)
