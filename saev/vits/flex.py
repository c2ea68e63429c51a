"""Native-resolution resize: each image gets the patch grid that fits its aspect ratio, with at most N patches."""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from jaxtyping import Float, Int, Integer
from PIL import Image
from torch import Tensor

from saev.vits.transform import ImageTransform, Resize

FITS: dict[str, Resize] = {"stretch": "squash", "crop": "crop", "pad": "pad"}
# An unused patch costs half as much as an equal distortion. Below 1, a grid beyond the image's aspect ratio never pays,
# so that padding never fills a whole patch; at 1 every such grid would be a tie.
UNUSED = 0.5


@lru_cache(4096)
def choose_grid(width: int, height: int, n_patches: int) -> tuple[int, int]:
    """Patches (h, w) for an image of width x height pixels, h * w <= n_patches.

    Minimises |ln((w / h) / (width / height))| + 0.5 ln(n_patches / (h * w)): the change of the aspect ratio by filling
    the grid, plus half of the unused patches, on the same scale. Ties prefer more patches, then the squarer grid, then
    the wider. Small images are enlarged; an image one pixel high gets one row.

    >>> choose_grid(640, 480, 256), choose_grid(1000, 1, 256)
    ((14, 18), (1, 256))
    """
    h, w, unused = _candidates(n_patches)
    cost = np.abs(np.log((w * height) / (h * width))) + UNUSED * unused
    best = int(np.argmin(np.round(cost, 12)))  # rounded, so that ties do not depend on the last bit of a log
    return int(h[best]), int(w[best])


@cache
def _candidates(n_patches: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Rows, columns and ln(n_patches / used patches) of every grid of at most n_patches; the preferred of ties first."""
    grids = [(h, w) for h in range(1, n_patches + 1) for w in range(1, n_patches // h + 1)]
    grids.sort(key=lambda grid: (-grid[0] * grid[1], abs(grid[0] - grid[1]), grid[0]))
    h, w = np.array(grids, np.int64).T
    return h, w, np.log(n_patches / (h * w))


@dataclass(frozen=True)
class FlexTransform:
    """Resize each image to its grid of at most `n_patches` patches of `patch` pixels a side, and normalise.

    stretch: the whole image, its aspect ratio changed by a few per cent; crop: aspect ratio kept, the excess of the
    longer side cut off; pad: aspect ratio kept (to a pixel), the rest (less than a patch) filled with the mean colour.
    """

    n_patches: int
    patch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    fit: str = "stretch"

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Patches (h, w) of an image of this size."""
        return choose_grid(width, height, self.n_patches)

    def at(self, width: int, height: int) -> ImageTransform:
        """The transform of images of this size."""
        h, w = self.grid(width, height)
        size = h * self.patch, w * self.patch
        return ImageTransform(size, self.mean, self.std, self.interpolation, FITS[self.fit])

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        return self.at(*image.size)(image)

    def mask(self, mask: Integer[np.ndarray, "h w"]) -> Integer[np.ndarray, "height width"]:
        """A mask of class ids over the same pixels as the image's tensor."""
        return self.at(mask.shape[1], mask.shape[0]).mask(mask)
