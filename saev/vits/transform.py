"""PIL image -> normalised tensor; the same geometry for masks."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Integer
from PIL import Image
from torch import Tensor

Resize = Literal["crop", "squash"]


@dataclass(frozen=True)
class ImageTransform:
    """Resize to `size` (height, width) pixels and normalise with the backbone's mean and std.

    crop: the largest centred box of the target's aspect; squash: the whole picture, aspect lost. Crop and resize are
    one resampling of a box, so that a picture of one pixel's height costs what any other does.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize: Resize = "crop"

    def __post_init__(self):
        if self.resize not in ("crop", "squash"):
            raise ValueError(f"vit.resize={self.resize}: choose crop (centre, aspect kept) or squash (whole picture).")

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        resample = Image.Resampling[self.interpolation.upper()]
        picture = image.convert("RGB").resize(self.width_height, resample, box=self.box(*image.size))
        # NumPy, not torch: this runs in loader threads, which must stay out of torch's thread pool
        values = np.asarray(picture, np.float32) / np.float32(255)
        values = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))

    @property
    def width_height(self) -> tuple[int, int]:
        """The size as PIL says it."""
        return self.size[1], self.size[0]

    def mask(self, mask: Image.Image) -> Integer[np.ndarray, "height width"]:
        """A mask of class ids over the same pixels as the image's tensor; ids are picked, never mixed."""
        return np.asarray(mask.resize(self.width_height, Image.Resampling.NEAREST, box=self.box(*mask.size)))

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a width x height picture that is seen: (left, top, right, bottom) in its pixels.

        >>> ImageTransform((10, 10), (0.5,), (0.5,)).box(40, 20)
        (10.0, 0.0, 30.0, 20.0)
        """
        if self.resize == "squash":
            return 0.0, 0.0, float(width), float(height)
        scale = min(height / self.size[0], width / self.size[1])
        h, w = min(scale * self.size[0], height), min(scale * self.size[1], width)
        return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2
