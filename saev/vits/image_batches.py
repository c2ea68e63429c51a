"""Batches of images for a backbone, outside a recording."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.images.source import ImageSource
from saev.vits.backbone import Backbone
from saev.vits.batching import BATCHES_SORTED, passes
from saev.vits.image_loader import ImageLoader, LoadedImage
from saev.vits.threads import load_ahead


def image_batches(
    backbone: Backbone,
    images: ImageSource,
    numbers: Int[np.ndarray, " images"] | Sequence[int],
    batch_size: int = 32,
    n_workers: int = 2,
    skipped: list[str] | None = None,
) -> Iterator[Float[Tensor, "batch 3 height width"]]:
    """The images with these numbers, decoded ahead in threads; the images of a batch have one grid.

    Unreadable images are left out and their errors appended to `skipped`. ValueError where no image can be read.
    """
    order = np.asarray(numbers)
    loader = ImageLoader(images, order, backbone.transform, backbone.shape, {}, None, "skip")
    ahead, n = (1 if backbone.grid else BATCHES_SORTED) * batch_size, 0
    waiting: list[LoadedImage] = []
    errors: list[str] = []

    def stacked(loaded: list[LoadedImage]) -> Iterator[Tensor]:
        for indices in passes([image.grid for image in loaded], batch_size):
            yield torch.stack([pixels for i in indices if (pixels := loaded[i].pixels) is not None])

    with closing(load_ahead(loader, range(len(order)), n_workers, ahead)) as loaded:
        for image in loaded:
            if image.pixels is None:
                errors.append(image.error)
                continue
            waiting.append(image)
            n += 1
            if len(waiting) == ahead:
                yield from stacked(waiting)
                waiting = []
    yield from stacked(waiting)
    if skipped is not None:
        skipped += errors
    if not n:
        raise ValueError(f"none of the {len(order)} images could be read; first error: {(errors or ['no image'])[0]}")
