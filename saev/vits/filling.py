"""The pass over the images that fills a recording's shards.

    images --threads--> decoded, resized --batches--> backbone (stops at the deepest layer) --thread--> shard
Batches begin anew at each shard, so that a recording that was stopped and goes on equals one that never stopped.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

from saev.images.source import ImageSource
from saev.shards import RecordingWriter
from saev.vits.backbone import Backbone
from saev.vits.loading import WriteBehind, load_ahead

BATCHES_AHEAD = 3


@dataclass(frozen=True)
class Loaded:
    """One image on its way: its number in the recording, its line of the table, its pixels or why there are none."""

    index: int
    row: dict[str, Any]
    pixels: Tensor | None
    error: str = ""


@dataclass(frozen=True)
class Filler:
    """What the pass needs to know; `order[i]` is the image that stands at place i of the recording."""

    images: ImageSource
    backbone: Backbone
    order: np.ndarray
    layers: Sequence[int]
    hook: str
    roles: Sequence[str]
    dtype: torch.dtype
    autocast: torch.dtype | None
    batch_size: int
    n_workers: int
    on_error: str

    def fill(self, writer: RecordingWriter, shards: Sequence[int], console: Any, progress: bool) -> list[str]:
        """Record these shards; the errors of the images that were skipped, in the order of the recording."""
        skipped: list[str] = []
        batches = [(shard, batch) for shard in shards for batch in chunks(writer.examples_of(shard), self.batch_size)]
        indices = (index for _, batch in batches for index in batch)
        loaded = load_ahead(self.load, indices, self.n_workers, BATCHES_AHEAD * self.batch_size)
        bar = progress_bar(console, progress)
        with closing(loaded), bar:
            task = bar.add_task(f"Recording {self.images.name}", total=sum(len(batch) for _, batch in batches), rate="")
            for shard in shards:
                with writer.shard(shard) as out, WriteBehind() as behind:
                    for batch in chunks(writer.examples_of(shard), self.batch_size):
                        items = [next(loaded) for _ in batch]
                        skipped += [item.error for item in items if item.error]
                        behind.do(write, out, items, self.activations(items))
                        bar.advance(task, len(items))
                        seen = bar.tasks[0]
                        bar.update(task, rate=f"{seen.completed / max(seen.elapsed or 0, 1e-3):.1f} images/s")
        return skipped

    def load(self, index: int) -> Loaded:
        """Decode and resize the image at place `index`, in a loader thread."""
        image, grid = int(self.order[index]), self.backbone.grid
        path = self.images.paths()[image]
        row = {"key": path, "path": path, "width": None, "height": None, "grid_h": grid[0], "grid_w": grid[1]}
        row |= self.images.labels(image)
        try:
            picture = self.images.open(image)
            row |= {"width": picture.width, "height": picture.height}
            return Loaded(index, row, self.backbone.transform(picture))
        except Exception as error:  # whatever a decoder raises on a broken file is that file's error
            if self.on_error == "stop":
                raise ValueError(
                    f"image {path} of images={self.images.name} cannot be read ({error}): replace it, or skip such "
                    "images with record.on_error=skip."
                ) from error
            return Loaded(index, row, None, f"{path}: {error}")

    @torch.inference_mode()
    def activations(self, items: Sequence[Loaded]) -> dict[int, Float[np.ndarray, "readable tokens d_model"]]:
        """Activations by layer of those images that could be read, in order."""
        pixels = [item.pixels for item in items if item.pixels is not None]
        if not pixels:
            return {}
        device = next(self.backbone.parameters()).device
        stacked = torch.stack(pixels)
        batch = stacked.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else stacked.to(device)
        with torch.autocast(device.type, dtype=self.autocast, enabled=self.autocast is not None):
            found = self.backbone(batch, self.layers, self.hook)
        keep = kept_tokens(self.backbone, self.roles)
        return {layer: narrow(value[:, keep], self.dtype).cpu().numpy() for layer, value in found.items()}


def write(out: Any, items: Sequence[Loaded], acts: dict[int, np.ndarray]) -> None:
    """Append a batch to an open shard, in the writer's thread."""
    at = 0
    for item in items:
        if item.pixels is None:
            out.skip(item.index, item.error, item.row)
        else:
            out.add(item.index, {layer: values[at] for layer, values in acts.items()}, item.row)
            at += 1


def kept_tokens(backbone: Backbone, roles: Sequence[str]) -> list[int]:
    """Positions of the tokens with these roles among all of the backbone's."""
    positions, at = [], 0
    for role, n in backbone.anatomy.shape.roles.items():
        positions += range(at, at + n) if role in roles else []
        at += n
    return positions


def narrow(value: Float[Tensor, "*any"], dtype: torch.dtype) -> Float[Tensor, "*any"]:
    """`value` in dtype where it fits (half the bytes to move), else in float32, for the writer to say what is wrong."""
    value = value.float()
    fits = value.abs().amax() <= torch.finfo(dtype).max  # False for NaN
    return value.to(dtype) if fits else value


def chunks(items: range, size: int) -> Iterator[range]:
    """Consecutive runs of `size` items, the last one shorter.

    >>> list(chunks(range(5), 2))
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return (items[at : at + size] for at in range(0, len(items), size))


def progress_bar(console: Any, shown: bool) -> Progress:
    """Images done, images/s and the time that is left; a single line at the end where there is no terminal."""
    columns: list[Any] = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn("{task.fields[rate]}"), TimeRemainingColumn()]
    return Progress(*columns, console=console, disable=not shown)
