"""PIL image -> normalised tensor; the same geometry for masks."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Integer
from PIL import Image
from torch import Tensor

from saev.shards.manifest import VOID

Resize = Literal["crop", "squash", "pad"]


@dataclass(frozen=True)
class ImageTransform:
    """Resize to `size` (height, width) pixels and normalise with the backbone's mean and std.

    crop: the largest centred box of the target's aspect ratio; squash: the whole image, aspect ratio changed; pad: the
    whole image, aspect ratio kept, centred on the mean colour. Crop and resize are one resampling of a box, so that an
    image one pixel high is not more expensive than others.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize: Resize = "crop"

    def __post_init__(self):
        if self.resize not in ("crop", "squash", "pad"):
            raise ValueError(f"vit.resize={self.resize}: choose crop (centre, aspect kept) or squash (whole image).")

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        resample = Image.Resampling[self.interpolation.upper()]
        top, left, height, width = self.covered(*image.size)
        rgb = image if image.mode == "RGB" else image.convert("RGB")  # converting copies, and holds the GIL
        picture = np.asarray(rgb.resize((width, height), resample, box=self.box(*image.size)))
        # NumPy, not torch: this runs in loader threads, which must stay out of torch's thread pool
        tensor = np.zeros((3, *self.size), np.float32)  # the mean colour
        values = tensor[:, top : top + height, left : left + width]
        values[:] = picture.transpose(2, 0, 1)  # planes before arithmetic, in place: a third of the time
        values /= np.float32(255)
        values -= np.array(self.mean, np.float32)[:, None, None]
        values /= np.array(self.std, np.float32)[:, None, None]
        return torch.from_numpy(tensor)

    def at(self, width: int, height: int) -> "ImageTransform":
        """The transform of images of this size: this one."""
        return self

    def mask(self, mask: Integer[np.ndarray, "h w"]) -> Integer[np.ndarray, "height width"]:
        """A mask of class ids over the same pixels as the image's tensor, by nearest neighbours.

        Pixels that the image does not cover get VOID.
        """
        left, top, right, bottom = self.box(mask.shape[1], mask.shape[0])
        y, x, height, width = self.covered(mask.shape[1], mask.shape[0])
        rows, columns = centres(top, bottom, height), centres(left, right, width)
        resized = mask[rows[:, None], columns]
        if (height, width) == self.size:
            return resized
        canvas = np.full(self.size, VOID, np.promote_types(mask.dtype, np.uint16))
        canvas[y : y + height, x : x + width] = resized
        return canvas

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The box of a width x height image that is used: (left, top, right, bottom) in its pixels.

        >>> ImageTransform((10, 10), (0.5,), (0.5,)).box(40, 20)
        (10.0, 0.0, 30.0, 20.0)
        """
        if self.resize != "crop":
            return 0.0, 0.0, float(width), float(height)
        scale = min(height / self.size[0], width / self.size[1])
        h, w = min(scale * self.size[0], height), min(scale * self.size[1], width)
        return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2

    def covered(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The pixels of the result that a width x height image covers: (top, left, height, width).

        >>> ImageTransform((10, 10), (0.5,), (0.5,), resize="pad").covered(40, 20)
        (2, 0, 5, 10)
        """
        if self.resize != "pad":
            return 0, 0, *self.size
        # rounded up, so that a thin image keeps a pixel
        tall = height * self.size[1] > width * self.size[0]
        h = self.size[0] if tall else -(-height * self.size[1] // width)
        w = -(-width * self.size[0] // height) if tall else self.size[1]
        return (self.size[0] - h) // 2, (self.size[1] - w) // 2, h, w


def centres(start: float, stop: float, n: int) -> Integer[np.ndarray, " n"]:
    """Pixels at the centres of n equal parts of [start, stop), as in PIL's nearest resampling.

    >>> centres(0, 8, 4)
    array([1, 3, 5, 7])
    """
    step = (stop - start) / n
    return np.minimum(start + (np.arange(n) + 0.5) * step, np.nextafter(stop, start)).astype(np.intp)
