"""Batches of pictures for a backbone, outside a recording."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.images.source import ImageSource
from saev.vits.backbone import Backbone
from saev.vits.grouping import passes
from saev.vits.item import Item, ItemLoader
from saev.vits.loading import load_ahead

BATCHES_SORTED = 8  # by grid, where pictures have their own: else most forward passes would be small


def image_batches(
    backbone: Backbone,
    images: ImageSource,
    chosen: Int[np.ndarray, " images"] | Sequence[int],
    batch_size: int = 32,
    n_workers: int = 2,
    skipped: list[str] | None = None,
) -> Iterator[Float[Tensor, "batch 3 height width"]]:
    """The chosen images (numbers of `images.paths()`), decoded ahead in threads, those of one grid together.

    Images that cannot be read are left out; their errors are appended to `skipped`. ValueError where none can.
    """
    order = np.asarray(chosen)
    loader = ItemLoader(images, order, backbone.transform, backbone.shape, {}, None, "skip")
    ahead, n = (1 if backbone.grid else BATCHES_SORTED) * batch_size, 0
    waiting: list[Item] = []
    errors: list[str] = []

    def passed(items: list[Item]) -> Iterator[Tensor]:
        for places in passes([item.grid for item in items], batch_size):
            yield torch.stack([pixels for at in places if (pixels := items[at].pixels) is not None])

    with closing(load_ahead(loader, range(len(order)), n_workers, ahead)) as loaded:
        for item in loaded:
            if item.pixels is None:
                errors.append(item.error)
                continue
            waiting.append(item)
            n += 1
            if len(waiting) == ahead:
                yield from passed(waiting)
                waiting = []
    yield from passed(waiting)
    if skipped is not None:
        skipped += errors
    if not n:
        raise ValueError(f"none of the {len(order)} images could be read; first error: {(errors or ['no image'])[0]}")
