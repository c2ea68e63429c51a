"""The pass over the images that writes a recording's shards.

    images --threads--> decoded, resized, labelled --passes of one grid--> backbone --thread--> shard
Batches never cross shards, so that a resumed recording equals an uninterrupted one.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from saev.shards import RecordingWriter
from saev.shards.shard_writer import ShardWriter
from saev.vits.backbone import Backbone
from saev.vits.batching import BATCHES_SORTED, chunks, passes
from saev.vits.image_loader import ImageLoader, LoadedImage
from saev.vits.recording_progress import ImageBar, Remarks
from saev.vits.shape import VitShape
from saev.vits.threads import WriteBehind, load_ahead

BATCHES_AHEAD = 3
CALIBRATION_IMAGES, CALIBRATION_BATCH = 64, 8
# Indices of the pass's images among the readable images of a batch, and the activations of these images by layer.
Pass = tuple[list[int], dict[int, Tensor]]


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

    def fill(self, writer: RecordingWriter, shards: Sequence[int], console: Console, progress: bool) -> Remarks:
        """Record these shards; returns what is to be said about the images, in the order of the recording."""
        remarks = Remarks()
        size = self.batch_size * (1 if self.shape.grid else BATCHES_SORTED)
        # from the batch with the first image that is not stored: batches decide how activations are rounded
        examples = {shard: writer.examples_of(shard)[writer.stored(shard) // size * size :] for shard in shards}
        indices = [index for of_shard in examples.values() for index in of_shard]
        bar = ImageBar(console, f"Recording {self.loader.images.name}", len(indices), progress)
        with closing(self._loaded(indices, max(size, BATCHES_AHEAD * self.batch_size))) as loaded, bar:
            for shard in shards:
                with writer.shard(shard) as out, WriteBehind() as behind:
                    for batch in chunks(examples[shard], size):
                        images = [next(loaded) for _ in batch]
                        for image in images:
                            remarks.add(image)
                        behind.do(write, out, images, list(self._passes(images, self.batch_size)), self.dtype)
                        bar.advance(len(images))
        return remarks

    def calibrate(self, writer: RecordingWriter) -> None:
        """Fit the writer's int8 codecs to the first readable images of the recording, in fixed passes.

        Raises ValueError where no image can be read.
        """
        images: list[LoadedImage] = []
        errors: list[str] = []
        with closing(self._loaded(range(writer.manifest.n_examples), CALIBRATION_IMAGES)) as loaded:
            for image in loaded:
                if image.pixels is None:
                    errors.append(image.error)
                else:
                    images.append(image)
                if len(images) == CALIBRATION_IMAGES:
                    break
        if not images:
            raise ValueError(f"none of the {len(errors)} images could be read; first error: {errors[0]}")
        acts = in_order(self._passes(images, CALIBRATION_BATCH), self.dtype)
        writer.calibrate({layer: np.concatenate([of_image[layer] for of_image in acts]) for layer in self.layers})

    def _loaded(self, indices: Iterable[int], ahead: int) -> Generator[LoadedImage, None, None]:
        return load_ahead(self.loader, indices, self.n_workers, ahead)

    @torch.inference_mode()
    def _passes(self, images: Sequence[LoadedImage], most: int) -> Iterator[Pass]:
        """Activations of the readable images, in forward passes of one grid and at most `most` images."""
        readable = [image for image in images if image.pixels is not None]
        for indices in passes([image.grid for image in readable], most):
            yield indices, self._forward([pixels for i in indices if (pixels := readable[i].pixels) is not None])

    def _forward(self, pixels: list[Tensor]) -> dict[int, Float[Tensor, "batch tokens d_model"]]:
        """The tokens to store of images of one grid; on a GPU possibly still being computed."""
        device = next(self.backbone.parameters()).device
        gpu = device.type == "cuda"
        batch = torch.stack(pixels).pin_memory().to(device, non_blocking=True) if gpu else torch.stack(pixels)
        with torch.autocast(device.type, dtype=self.autocast, enabled=self.autocast is not None):
            acts = self.backbone(batch, self.layers, self.hook)
        selected = {layer: of_roles(value, self.shape, self.roles) for layer, value in acts.items()}
        # On a GPU the writer's thread waits for the values while this thread prepares the next pass; on a CPU they are
        # converted here, where torch's threads are idle.
        return selected if gpu else {layer: narrow(value, self.dtype) for layer, value in selected.items()}


def write(out: ShardWriter, images: Sequence[LoadedImage], computed: Sequence[Pass], dtype: torch.dtype) -> None:
    """Append a batch to an open shard, in the writer's thread."""
    acts = iter(in_order(computed, dtype))
    for image in images:
        if image.pixels is None:
            out.skip(image.index, image.error, image.row)
        else:
            out.add(image.index, next(acts), image.row, image.labels, image.fractions)
    out.save_partial()


def in_order(computed: Iterable[Pass], dtype: torch.dtype) -> list[dict[int, Float[np.ndarray, "tokens d_model"]]]:
    """Activations by layer of each image, in the order of the images instead of the passes."""
    by_image: dict[int, dict[int, np.ndarray]] = {}
    for indices, acts in computed:
        arrays = {layer: narrow(value, dtype).cpu().numpy() for layer, value in acts.items()}
        by_image |= {i: {layer: values[n] for layer, values in arrays.items()} for n, i in enumerate(indices)}
    return [by_image[i] for i in range(len(by_image))]


def of_roles(
    value: Float[Tensor, "batch tokens d_model"], shape: VitShape, roles: Sequence[str]
) -> Float[Tensor, "batch selected d_model"]:
    """The tokens with these roles, in stored order."""
    parts = [value[:, part] for role, part in shape.slices(value.shape[1]).items() if role in roles]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def narrow(value: Float[Tensor, "*any"], dtype: torch.dtype) -> Float[Tensor, "*any"]:
    """`value` in dtype if it fits (half the bytes to move), else in float32, so that the writer reports the overflow."""
    if value.dtype == dtype:
        return value
    value = value.float()
    fits = value.abs().amax() <= torch.finfo(dtype).max  # False for NaN
    return value.to(dtype) if fits else value
