"""What a training run is about to do, for the log."""

import logging
from collections.abc import Sequence
from pathlib import Path

from datamodules import ActivationDataModule
from saev.nn import Member

log = logging.getLogger(__name__)


def announce(members: Sequence[Member], data: ActivationDataModule, directory: Path, steps: int) -> None:
    """Log what the run is about to do."""
    assert data.store is not None
    stream = data.stream(data.train_examples)
    log.info("run directory: %s", directory)
    log.info("activations: %s, layer %d, d_model %d", described(data), data.layer, data.store.d_model)
    log.info(
        "training %d SAEs (%s) for %d steps of %d tokens: %.2f epochs of %d tokens from %d images; %d images held out",
        len(members), "; ".join(str(member.name) for member in members), steps, data.batch_size,
        steps / stream.n_batches, stream.n_tokens, len(data.train_examples), len(data.val_examples),
    )  # fmt: skip


def described(data: ActivationDataModule) -> str:
    """The recording, or the backbone that computes what is not recorded, and the size of the windows that it fills."""
    assert data.store is not None
    if data.reader != "live":
        return str(data.store.location.root)
    plan, codec = data.stream(data.train_examples).plan, data.store.codec(data.layer)
    window = min(plan.n_tokens, plan.batches_per_window * plan.largest_batch)
    images = max(1, window * len(data.train_examples) // plan.n_tokens)
    return (
        f"computed by {data.store.manifest.meaning['vit']['name']}, not stored; mixed in two windows of {images} images, "
        f"{2 * window * plan.world * codec.row_bytes / 2**30:.2g} GiB"
    )
