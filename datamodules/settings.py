"""The settings of an activation stream, checked before anything is recorded or read."""

import dataclasses
from typing import Literal

from datamodules.parts import parts_of
from saev.settings import bounded, check


@dataclasses.dataclass(eq=False)
class StreamOptions:
    """The tokens of a stream, its batches and how they are read; the base of the datamodules.

    Args:
        batch_size: tokens per batch over all processes, rounded down to a multiple of `parts`.
        tokens: patches, cls, special (cls and registers) or all.
        ignore_labels: leave out tokens with these patch labels (65535: unlabelled tokens).
        n_tokens: tokens of the training run over all processes, in as many epochs as necessary; None: one epoch.
        subset_tokens: train on so many different tokens, of random images; larger subsets contain smaller ones.
        val_fraction: fraction of the images held out for validation, at least one image.
        val_tokens: maximal number of held-out tokens per validation (whole images; None: all).
        group: a column of examples.parquet (video, specimen): all images with one value are in training or all held out.
        split: a column of examples.parquet that says `train` of training images; all others are held out, whatever val_fraction is.
        reader: mapped (local files, read in place), streamed (shard after shard, from its beginning), auto (one of these), or live
            (nothing is recorded: the backbone computes the tokens of each window).
        readers: reading threads; they change the speed, not the order.
        pool: tokens in memory that are mixed; in addition `depth` batches are prefetched.
        stripe: tokens of an image that stay together in the pool (reader=mapped).
        retry_s: seconds after which a remote that fails or is silent is given up (reader=streamed).
        parts: sub-streams that make up each batch and divide the pool, a multiple of the number of processes (None: that
            number). The order depends on it, not on the number of processes.
    """

    batch_size: int = bounded(at_least=1)
    tokens: str = "patches"
    ignore_labels: tuple[int, ...] = ()
    n_tokens: int | None = bounded(None, at_least=1)
    subset_tokens: int | None = None
    val_fraction: float = bounded(0.1, above=0, below=1)
    val_tokens: int | None = bounded(None, at_least=1)
    group: str | None = None
    split: str | None = None
    seed: int = 0
    reader: Literal["auto", "mapped", "streamed", "live"] = "auto"
    readers: int = bounded(2, at_least=1)
    pool: int = 1 << 20
    stripe: int = bounded(32, at_least=1)
    depth: int = bounded(2, at_least=0)
    parts: int | None = bounded(None, at_least=1)
    retry_s: float = bounded(600, at_least=0)

    def __post_init__(self):
        check(self, "datamodule.")
        self.ignore_labels = tuple(self.ignore_labels or ())
        parts_of(self.parts, 1, self.batch_size)
        if self.pool < (least := 4 * self.batch_size):
            raise ValueError(
                f"datamodule.pool={self.pool}: must be at least {least}, to mix batches of {self.batch_size} tokens."
            )
        if self.subset_tokens is not None and self.subset_tokens < self.batch_size:
            raise ValueError(f"subset_tokens={self.subset_tokens}: must be at least batch_size={self.batch_size}.")
