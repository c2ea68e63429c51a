"""Decoding, resizing and labelling one image for a recording."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float16, UInt16
from torch import Tensor

from saev.images.patch_labels import Labelling, patch_labels
from saev.images.source import ImageSource
from saev.shards.manifest import VOID
from saev.vits.shape import VitShape
from saev.vits.sizing import Transform

GRID, UNKNOWN = ("grid_h", "grid_w"), (None, None)


@dataclass(frozen=True)
class LoadedImage:
    """An image: its position in the recording, its row of examples.parquet, its pixels or the error."""

    index: int
    row: dict[str, Any]
    grid: tuple[int, int] | None = None
    pixels: Tensor | None = None
    labels: UInt16[np.ndarray, " tokens"] | None = None
    fractions: Float16[np.ndarray, " tokens"] | None = None
    error: str = ""
    one_colour: bool = False
    levels: str = ""  # how a grey of other than 8 bits was read


@dataclass(frozen=True)
class ImageLoader:
    """Loads the image at a position of the recording, in loader threads; `order[i]` is the image at position i."""

    images: ImageSource
    order: np.ndarray
    transform: Transform
    shape: VitShape
    roles: dict[str, int]
    labelling: Labelling | None
    on_error: str

    def __call__(self, index: int) -> LoadedImage:
        """Decode, resize and label the image at position `index`."""
        image, grid = int(self.order[index]), self.shape.grid
        path = self.images.paths()[image]
        row = {"key": path, "path": path, "width": None, "height": None} | dict(zip(GRID, grid or UNKNOWN, strict=True))
        row |= self.images.labels(image)
        try:
            picture = self.images.open(image)
            width, height = picture.size
            grid = self.shape.grid_of(width, height)
            labels, fractions = self.labels(image, width, height, grid) if self.labelling else (None, None)
            pixels = self.transform(picture)
        except Exception as error:  # decoders raise any type on a broken file
            if self.on_error == "stop":
                raise ValueError(
                    f"image {path} of images={self.images.name} cannot be read ({error}): replace it, or skip such "
                    "images with record.on_error=skip."
                ) from error
            return LoadedImage(index, row, error=f"{path}: {error}")
        row |= {"width": width, "height": height} | dict(zip(GRID, grid, strict=True))
        one_colour = picture.getcolors(1) is not None  # None: more than one
        return LoadedImage(index, row, grid, pixels, labels, fractions, "", one_colour, picture.info.get("levels", ""))

    def labels(
        self, image: int, width: int, height: int, grid: tuple[int, int]
    ) -> tuple[UInt16[np.ndarray, " tokens"], Float16[np.ndarray, " tokens"]]:
        """Label and fraction of each stored token; all void if the image has no mask."""
        assert self.labelling is not None
        special = sum(n for role, n in self.roles.items() if role != "patches")
        n_tokens = special + grid[0] * grid[1]
        labels, fractions = np.full(n_tokens, VOID, np.uint16), np.zeros(n_tokens, np.float16)
        mask = self.images.mask(image)
        if mask is not None:
            if mask.shape != (height, width):
                raise ValueError(f"its mask has {mask.shape[1]} x {mask.shape[0]} pixels, the image {width} x {height}")
            labels[special:], fractions[special:] = patch_labels(self.transform.mask(mask), grid, self.labelling)
        return labels, fractions
