"""Training without storing: the tokens that a recording would hold, from the backbone, for each window of a stream.

images of a window --threads--> decoded, resized --passes--> backbone --> window --> batches
"""

import logging
import os
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from functools import cached_property

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int64

from saev.shards.computed import ComputedStore
from saev.shards.manifest import Manifest
from saev.vits.image_loader import LoadedImage
from saev.vits.recording import Recording
from saev.vits.recording_pass import BATCHES_AHEAD, Pass, RecordingPass, in_order
from saev.vits.threads import load_ahead

log = logging.getLogger(__name__)
KEY = "datamodule.reader=live"


class LiveStore(ComputedStore):
    """The recording that `recording` would write, with its numbers of images, so that the same images are held out.

    An unreadable image is replaced by another one of its forward pass, with a warning (record.on_error=stop: ValueError). ValueError
    where images differ in their number of tokens, or where dtype=int8.
    """

    def __init__(self, recording: Recording, seed: int = 0):
        check_live(recording)
        plan, self.recording = recording.plan, recording
        n, width = plan.n_images, plan.shape.d_model
        manifest = Manifest(
            plan.meaning, plan.layers, plan.roles, width, plan.dtype, n, n, n_tokens=n * plan.n_tokens, complete=True
        )
        super().__init__(recording.directory(), manifest, plan.n_tokens, seed)
        self.replaced: set[int] = set()
        self.computing = threading.Lock()  # training and validation, or the parts of a batch, have threads of their own

    @cached_property
    def examples(self) -> pl.DataFrame:
        """A row per image, as in a recording; width and height are not known."""
        paths, images = self.recording.images.paths(), self.recording.images
        order = self.recording.plan.permutation().tolist()
        return pl.DataFrame([{"key": paths[i], "path": paths[i], **images.labels(i)} for i in order])

    @cached_property
    def _pass(self) -> RecordingPass:
        made, rank = self.recording.recording_pass(), os.environ.get("LOCAL_RANK")
        if rank is not None and self.recording.settings.device in ("auto", "cuda") and torch.cuda.is_available():
            made.backbone.to(f"cuda:{rank}")  # of several processes on a machine each has a GPU
        return replace(made, loader=replace(made.loader, labelling=None))

    def compute(
        self, layer: int, images: Int64[np.ndarray, " images"]
    ) -> Generator[Float[np.ndarray, "tokens d_model"], None, None]:
        with self.computing:
            made = self._pass
        size = made.batch_size
        last: tuple[list[LoadedImage], list[Pass]] | None = None
        with closing(load_ahead(made.loader, images.tolist(), made.n_workers, BATCHES_AHEAD * size)) as loaded:
            for low in range(0, len(images), size):
                batch = [next(loaded) for _ in images[low : low + size]]
                with self.computing:  # a backbone is read through hooks, one pass at a time
                    passes = made.computed(batch, size)  # on a GPU it is computed while the last batch is copied
                if last is not None:
                    yield from self._of_batch(*last, layer)
                last = batch, passes
        if last is not None:
            yield from self._of_batch(*last, layer)

    def _of_batch(
        self, images: list[LoadedImage], passes: list[Pass], layer: int
    ) -> list[Float[np.ndarray, "tokens d_model"]]:
        """The tokens of each image of a batch."""
        computed = [of_image[layer].astype(self.manifest.dtype, copy=False) for of_image in in_order(passes)]
        if not computed:
            raise ValueError(f"none of {len(images)} images could be read; first error: {images[0].error}")
        if not all(np.isfinite(acts).all() for acts in computed):
            raise ValueError(
                f"layer={layer}: activations are not finite in {self.manifest.dtype}: use record.dtype=float32."
            )
        for broken in (image for image in images if image.pixels is None and image.index not in self.replaced):
            self.replaced.add(broken.index)
            log.warning("%s; another image takes its place, and a recording would hold out other images", broken.error)
        rest = iter(computed)
        return [next(rest) if image.pixels is not None else computed[0] for image in images]


def check_live(recording: Recording) -> None:
    """ValueError for what keeps the recording's tokens from being computed batch by batch."""
    recording.check(stored=False)
    plan = recording.plan
    if plan.shape.grid is None:
        raise ValueError(
            f"{KEY}: with vit.resize=flex images differ in their number of tokens; use vit.resize=crop or squash, or record them."
        )
    if plan.dtype == "int8":
        raise ValueError(f"{KEY}: nothing is stored, so record.dtype=int8 saves nothing; use record.dtype=float16.")
    if recording.settings.decoding == "processes":
        raise ValueError(f"{KEY} decodes in threads, for each window anew: use record.decoding=threads.")
