"""Segmentation maps of a chosen linear probe over the validation images."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Integer
from torch import Tensor

from datamodules import LabelledDataModule
from saev.metrics.segmentation import accuracy, mean_iou
from saev.training.linear.maps import map_overlap, patch_map
from saev.training.linear.module import ProbeModule


@torch.no_grad()
def map_numbers(
    data: LabelledDataModule,
    module: ProbeModule,
    i: int,
    size: Sequence[int] | None,
    masks: Callable[[int], Integer[np.ndarray, "height width"] | None] | None,
) -> dict[str, Any]:
    """`map_miou` and `map_accuracy` over all pixels of the validation images, upsampled from the logits of patches.

    `map_target` is the reference: `masks`, or `patch labels` with nearest upsampling. `map_size` is the requested size; None: that of
    the masks, or each image's patches times their size. The images are divided among the processes.
    """
    probe: Any = module.probes[i]
    store, rank, world = data.val_store, module.trainer.global_rank, module.trainer.world_size
    counts = torch.zeros(3, data.n_classes, dtype=torch.int64, device=module.device)
    grids = store.examples.select("grid_h", "grid_w").rows()
    for example in data.val_examples[rank::world]:
        true = reference_map(data, int(example), grids[example], size, masks)
        if true is None:
            continue
        acts = torch.from_numpy(store.read(data.layer, int(example), "patches").astype(np.float32)).to(module.device)
        logits = probe(module.inputs[probe.spec.input].features(acts))
        counts += map_overlap(logits, grids[example], true.to(module.device))
    if world > 1:
        counts = module.trainer.strategy.reduce(counts, reduce_op="sum")
    return {
        "map_miou": mean_iou(counts).item(), "map_accuracy": accuracy(counts).item(), "map_pixels": int(counts[1].sum()),
        "map_size": None if size is None else list(size), "map_target": "patch labels" if masks is None else "masks",
    }  # fmt: skip


def reference_map(
    data: LabelledDataModule,
    example: int,
    grid: tuple[int, int],
    size: Sequence[int] | None,
    masks: Callable[[int], Integer[np.ndarray, "height width"] | None] | None,
) -> Int64[Tensor, "height width"] | None:
    """The class number of each pixel, -1 for those without one; None for an image without a mask."""
    assert data.classes is not None and data.labels is not None
    if masks is not None:
        ids = masks(example)
        if ids is None:
            return None
        mask = torch.from_numpy(without_others(data.classes.numbers(ids.astype(np.uint16)), data.n_classes))
        return mask if size is None else patch_map(mask.flatten(), (mask.shape[0], mask.shape[1]), (size[0], size[1]))
    start, _ = data.val_store.role_slice("patches")
    tokens = start + np.arange(grid[0] * grid[1])
    patches = torch.from_numpy(without_others(data.labels[1].of(np.full(len(tokens), example), tokens), data.n_classes))
    height, width = patch_size(data)
    return patch_map(patches, grid, (grid[0] * height, grid[1] * width) if size is None else (size[0], size[1]))


def without_others(numbers: Int64[np.ndarray, "*shape"], n_classes: int) -> Int64[np.ndarray, "*shape"]:
    """Class numbers with -1 for other classes, which a map cannot predict."""
    return np.where(numbers < n_classes, numbers, -1)


def patch_size(data: LabelledDataModule) -> tuple[int, int]:
    """(height, width) of a patch in pixels; ValueError where the recording does not contain it."""
    vit = data.val_store.manifest.meaning.get("vit") or {}
    if vit.get("patch"):  # images that keep their shape
        return vit["patch"], vit["patch"]
    if not vit.get("image_size") or not vit.get("grid"):
        raise ValueError(
            f"linear_probe.map_size=null: {data.val_store.location.root} does not contain the size of its patches: give "
            "[height, width]."
        )
    (height, width), (h, w) = vit["image_size"], vit["grid"]
    return height // h, width // w
