"""The pass over the images that fills a recording's shards.

    images --threads--> decoded, resized, labelled --passes of one grid--> backbone --thread--> shard
Batches begin anew at each shard, so that a recording that was stopped and goes on equals one that never stopped.
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
from saev.vits.grouping import chunks, passes
from saev.vits.item import Item, ItemLoader
from saev.vits.loading import WriteBehind, load_ahead
from saev.vits.shape import VitShape
from saev.vits.talking import ImageBar

BATCHES_AHEAD = 3
# Pictures of different shapes: so many batches are sorted by grid together, or most forward passes would be small.
BATCHES_SORTED = 8
CALIBRATION_IMAGES, CALIBRATION_BATCH = 64, 8
# Places of some images among those of a batch that can be read, and the activations of these images by layer.
Pass = tuple[list[int], dict[int, Tensor]]


@dataclass(frozen=True)
class Filler:
    """What the pass needs to know."""

    loader: ItemLoader
    backbone: Backbone
    shape: VitShape
    layers: Sequence[int]
    hook: str
    roles: Sequence[str]
    dtype: torch.dtype
    """Of the activations on their way to the writer."""
    autocast: torch.dtype | None
    batch_size: int
    n_workers: int

    def fill(self, writer: RecordingWriter, shards: Sequence[int], console: Console, progress: bool) -> list[str]:
        """Record these shards; the errors of the images that were skipped, in the order of the recording."""
        skipped: list[str] = []
        size = self.batch_size * (1 if self.shape.grid else BATCHES_SORTED)
        indices = [index for shard in shards for index in writer.examples_of(shard)]
        bar = ImageBar(console, f"Recording {self.loader.images.name}", len(indices), progress)
        with closing(self._loaded(indices, max(size, BATCHES_AHEAD * self.batch_size))) as loaded, bar:
            for shard in shards:
                with writer.shard(shard) as out, WriteBehind() as behind:
                    for batch in chunks(writer.examples_of(shard), size):
                        items = [next(loaded) for _ in batch]
                        skipped += [item.error for item in items if item.error]
                        behind.do(write, out, items, list(self._passes(items, self.batch_size)), self.dtype)
                        bar.advance(len(items))
        return skipped

    def calibrate(self, writer: RecordingWriter) -> None:
        """Let the writer see the first readable images of the recording, in passes that are always the same.

        Raises ValueError where no image can be read.
        """
        items: list[Item] = []
        errors: list[str] = []
        with closing(self._loaded(range(writer.manifest.n_examples), CALIBRATION_IMAGES)) as loaded:
            for item in loaded:
                if item.pixels is None:
                    errors.append(item.error)
                else:
                    items.append(item)
                if len(items) == CALIBRATION_IMAGES:
                    break
        if not items:
            raise ValueError(f"none of the {len(errors)} images could be read; first error: {errors[0]}")
        acts = in_order(self._passes(items, CALIBRATION_BATCH), self.dtype)
        writer.calibrate({layer: np.concatenate([one[layer] for one in acts]) for layer in self.layers})

    def _loaded(self, indices: Iterable[int], ahead: int) -> Generator[Item, None, None]:
        return load_ahead(self.loader, indices, self.n_workers, ahead)

    @torch.inference_mode()
    def _passes(self, items: Sequence[Item], most: int) -> Iterator[Pass]:
        """The images that could be read through the backbone, those of one grid together, at most `most` at a time."""
        readable = [item for item in items if item.pixels is not None]
        for places in passes([item.grid for item in readable], most):
            yield places, self._forward([pixels for at in places if (pixels := readable[at].pixels) is not None])

    def _forward(self, pixels: list[Tensor]) -> dict[int, Float[Tensor, "batch tokens d_model"]]:
        """The tokens to be stored of pictures of one grid; still being computed where they are on a GPU."""
        device = next(self.backbone.parameters()).device
        gpu = device.type == "cuda"
        batch = torch.stack(pixels).pin_memory().to(device, non_blocking=True) if gpu else torch.stack(pixels)
        with torch.autocast(device.type, dtype=self.autocast, enabled=self.autocast is not None):
            found = self.backbone(batch, self.layers, self.hook)
        chosen = {layer: kept(value, self.shape, self.roles) for layer, value in found.items()}
        # On a GPU the writer's thread waits for the values, while this one prepares the next pass; on a CPU the
        # conversion belongs here, where torch's threads are at rest.
        return chosen if gpu else {layer: narrow(value, self.dtype) for layer, value in chosen.items()}


def write(out: ShardWriter, items: Sequence[Item], computed: Sequence[Pass], dtype: torch.dtype) -> None:
    """Append a batch to an open shard, in the writer's thread."""
    acts = iter(in_order(computed, dtype))
    for item in items:
        if item.pixels is None:
            out.skip(item.index, item.error, item.row)
        else:
            out.add(item.index, next(acts), item.row, item.labels, item.shares)


def in_order(computed: Iterable[Pass], dtype: torch.dtype) -> list[dict[int, Float[np.ndarray, "tokens d_model"]]]:
    """Activations by layer of each image, in the order of the images instead of the passes'."""
    found: dict[int, dict[int, np.ndarray]] = {}
    for places, acts in computed:
        arrays = {layer: narrow(value, dtype).cpu().numpy() for layer, value in acts.items()}
        found |= {at: {layer: values[n] for layer, values in arrays.items()} for n, at in enumerate(places)}
    return [found[at] for at in range(len(found))]


def kept(
    value: Float[Tensor, "batch tokens d_model"], shape: VitShape, roles: Sequence[str]
) -> Float[Tensor, "batch kept d_model"]:
    """The tokens with these roles, in stored order."""
    special = shape.n_cls + shape.n_registers
    ends = {"cls": (0, shape.n_cls), "registers": (shape.n_cls, special), "patches": (special, value.shape[1])}
    parts = [value[:, start:stop] for role, (start, stop) in ends.items() if role in roles]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def narrow(value: Float[Tensor, "*any"], dtype: torch.dtype) -> Float[Tensor, "*any"]:
    """`value` in dtype where it fits (half the bytes to move), else in float32, for the writer to say what is wrong."""
    if value.dtype == dtype:
        return value
    value = value.float()
    fits = value.abs().amax() <= torch.finfo(dtype).max  # False for NaN
    return value.to(dtype) if fits else value
