"""The pass over the images that writes a recording's shards.

    images --threads--> decoded, resized, labelled --passes of one grid--> backbone --copies--> --threads--> shards
Batches never cross shards, so that a resumed recording equals an uninterrupted one. Nothing waits at the end of a shard:
decoding and forward passes continue with the next one while it is written and committed.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from saev.shards import RecordingWriter
from saev.shards.shard_writer import ShardWriter
from saev.vits.backbone import Backbone
from saev.vits.batching import BATCHES_SORTED, chunks, passes
from saev.vits.decoding_processes import DecodingProcesses
from saev.vits.image_loader import ImageLoader, LoadedImage
from saev.vits.recording_progress import ImageBar, Remarks
from saev.vits.shape import VitShape
from saev.vits.shard_threads import ShardThreads
from saev.vits.threads import load_ahead
from saev.vits.transfers import HostCopy, Transfers, Upload

BATCHES_AHEAD, BATCHES_BEHIND = 3, 4  # decoded and not computed; computed and not written
CALIBRATION_IMAGES, CALIBRATION_BATCH = 64, 8
# Indices of the pass's images among the readable images of a batch, and the activations of these images by layer.
Pass = tuple[list[int], HostCopy]


@dataclass(frozen=True)
class Batch:
    """Images that are read, computed and written together: indices among the readable ones, and pixels, of each forward pass."""

    images: list[LoadedImage]
    passes: list[tuple[list[int], Upload]]


@dataclass(frozen=True)
class RecordingPass:
    """Images through a backbone into a recording's shards."""

    loader: ImageLoader
    backbone: Backbone
    shape: VitShape
    layers: Sequence[int]
    hook: str
    roles: Sequence[str]
    dtype: torch.dtype
    """Of the activations handed to the writer."""
    autocast: torch.dtype | None
    batch_size: int
    n_workers: int
    decoding: str = "threads"

    def fill(self, writer: RecordingWriter, shards: Sequence[int], console: Console, progress: bool) -> Remarks:
        """Record these shards; returns what is to be said about the images, in the order of the recording."""
        remarks = Remarks()
        size = self.batch_size * (1 if self.shape.grid else BATCHES_SORTED)
        # from the batch with the first image that is not stored: batches decide how activations are rounded
        batches = {
            shard: list(chunks(writer.examples_of(shard)[writer.stored(shard) // size * size :], size))
            for shard in shards
        }
        indices = [index for of_shard in batches.values() for batch in of_shard for index in batch]
        sizes = [len(batch) for of_shard in batches.values() for batch in of_shard]
        bar = ImageBar(console, f"Recording {self.loader.images.name}", len(indices), progress)
        behind = max(1, BATCHES_BEHIND * self.batch_size // size)
        with (
            closing(self._loaded(indices, max(size, BATCHES_AHEAD * self.batch_size))) as loaded,
            closing(load_ahead(partial(self._take, loaded), sizes, 1, 1)) as uploaded,
            bar,
            ShardThreads(writer.shard, behind) as out,
        ):
            for shard in shards:
                out.start(shard)
                for _ in batches[shard]:
                    batch = next(uploaded)
                    for image in batch.images:
                        remarks.add(image)
                    out.append(partial(write, images=batch.images, computed=self._computed(batch)))
                    bar.advance(len(batch.images))
                out.end()
        return remarks

    def calibrate(self, writer: RecordingWriter) -> None:
        """Fit the writer's int8 codecs to the first readable images of the recording, in fixed passes.

        Raises ValueError where no image can be read.
        """
        images: list[LoadedImage] = []
        errors: list[str] = []
        everything = range(writer.manifest.n_examples)
        with closing(load_ahead(self.loader, everything, self.n_workers, CALIBRATION_IMAGES)) as loaded:
            for image in loaded:
                if image.pixels is None:
                    errors.append(image.error)
                else:
                    images.append(image)
                if len(images) == CALIBRATION_IMAGES:
                    break
        if not images:
            raise ValueError(f"none of the {len(errors)} images could be read; first error: {errors[0]}")
        acts = in_order(self.computed(images, CALIBRATION_BATCH))
        writer.calibrate({layer: np.concatenate([of_image[layer] for of_image in acts]) for layer in self.layers})

    def computed(self, images: Sequence[LoadedImage], most: int) -> list[Pass]:
        """Activations of the readable images in passes of at most `most`, for `in_order`; on a GPU possibly still being computed."""
        return self._computed(Batch([*images], self._uploads(images, most)))

    def _loaded(self, indices: Iterable[int], ahead: int) -> Generator[LoadedImage, None, None]:
        if self.decoding == "threads":
            yield from load_ahead(self.loader, indices, self.n_workers, ahead)
            return
        with closing(DecodingProcesses(self.loader, self.n_workers)) as load:
            yield from load_ahead(load, indices, self.n_workers, ahead)

    def _take(self, loaded: Iterator[LoadedImage], n: int) -> Batch:
        """The next n images, uploaded; runs in a thread."""
        images = list(islice(loaded, n))
        uploads = self._uploads(images, self.batch_size)
        return Batch([replace(image, pixels=None) for image in images], uploads)

    def _uploads(self, images: Sequence[LoadedImage], most: int) -> list[tuple[list[int], Upload]]:
        """The readable images, uploaded in passes of one grid and at most `most` images."""
        readable = [(image.grid, image.pixels) for image in images if image.pixels is not None]
        return [
            (indices, self._transfers.upload([readable[i][1] for i in indices]))
            for indices in passes([grid for grid, _ in readable], most)
        ]

    @torch.inference_mode()
    def _computed(self, batch: Batch) -> list[Pass]:
        """Activations of a batch at the tokens to store, on a GPU possibly still being computed."""
        computed = []
        for indices, upload in batch.passes:
            acts = self._compute(upload.wait())
            selected = {layer: of_roles(value, self.shape, self.roles) for layer, value in acts.items()}
            computed.append((indices, self._transfers.download(selected, self.dtype)))
        return computed

    @cached_property
    def _transfers(self) -> Transfers:
        return Transfers(next(self.backbone.parameters()).device)

    def _compute(self, batch: Float[Tensor, "batch 3 height width"]) -> dict[int, Tensor]:
        with torch.autocast(batch.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            return self.backbone(batch, self.layers, self.hook)


def write(out: ShardWriter, images: Sequence[LoadedImage], computed: Sequence[Pass]) -> None:
    """Append a batch to an open shard, in the shard's thread."""
    acts = iter(in_order(computed))
    for image in images:
        if image.error:
            out.skip(image.index, image.error, image.row)
        else:
            out.add(image.index, next(acts), image.row, image.labels, image.fractions)
    out.save_partial()


def in_order(computed: Iterable[Pass]) -> list[dict[int, Float[np.ndarray, "tokens d_model"]]]:
    """Activations by layer of each image, in the order of the images instead of the passes."""
    by_image: dict[int, dict[int, np.ndarray]] = {}
    for indices, copy in computed:
        arrays = copy.arrays()
        by_image |= {i: {layer: values[n] for layer, values in arrays.items()} for n, i in enumerate(indices)}
    return [by_image[i] for i in range(len(by_image))]


def of_roles(
    value: Float[Tensor, "batch tokens d_model"], shape: VitShape, roles: Sequence[str]
) -> Float[Tensor, "batch selected d_model"]:
    """The tokens with these roles, in stored order."""
    parts = [value[:, part] for role, part in shape.slices(value.shape[1]).items() if role in roles]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
