"""Segmentation maps of a probe: logits on the patch grid, upsampled, compared with a class per pixel.

patches [h * w, d_model] -> logits -> [classes, h, w] --bilinear--> [classes, height, width] -> largest -> overlap
"""

import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor

from saev.metrics.segmentation import overlap


def logit_map(
    logits: Float[Tensor, "patches classes"], grid: tuple[int, int], size: tuple[int, int]
) -> Int64[Tensor, "height width"]:
    """The class of each pixel of a map of `size`: the largest logit, upsampled bilinearly from the centres of patches."""
    maps = logits.T.reshape(1, -1, *grid)
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)[0].argmax(0)


def patch_map(
    labels: Int[Tensor, " patches"], grid: tuple[int, int], size: tuple[int, int]
) -> Int[Tensor, "height width"]:
    """The label of each pixel: that of its patch (used where there are no masks)."""
    maps = labels.reshape(1, 1, *grid).double()  # exact for labels
    return F.interpolate(maps, size, mode="nearest-exact")[0, 0].to(labels.dtype)


def map_overlap(
    logits: Float[Tensor, "patches classes"], grid: tuple[int, int], true: Int[Tensor, "height width"]
) -> Int64[Tensor, "3 classes"]:
    """Overlap (hits, true, predicted) of an image's pixels; those whose true class is below 0 are left out."""
    predicted = logit_map(logits, grid, (true.shape[0], true.shape[1]))
    return overlap(true, predicted, logits.shape[1])
