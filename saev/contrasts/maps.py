"""Where on the images a latent fires: its maps on the token grid, and their mean over a group."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy.ndimage import center_of_mass, shift

from saev.codes.store import CodeStore

Align = Literal["none", "centre_of_mass"]
Map = Float32[np.ndarray, "grid_h grid_w"]


class LatentMaps:
    """Codes of single latents on the patches of images, read from the views by latent and by image.

    ValueError where the images have no grid of patches.
    """

    def __init__(self, codes: CodeStore):
        images, self.codes = codes.images, codes
        if codes.manifest.tokens not in ("patches", "all"):
            raise ValueError(f"{codes.root} has codes of {codes.manifest.tokens} tokens: there are no maps.")
        if (
            "grid_h" not in images.columns
            or codes.manifest.first_patch is None
            or not images["grid_h"].fill_null(0).max()
        ):
            raise ValueError(f"the images of {codes.root} have no grid of patches: there are no maps.")
        self.number = {example: i for i, example in enumerate(images["example"].to_list())}
        self.start, self.stop = (images["rows"].struct.field(name).to_numpy() for name in ("start", "stop"))
        self.grids = images.select("grid_h", "grid_w").fill_null(0).rows()
        self._patches: dict[int, np.ndarray] = {}

    def grid(self, example: int) -> tuple[int, int]:
        """(grid_h, grid_w) of an image."""
        return self.grids[self.number[example]]

    def patches(self, example: int) -> Int64[np.ndarray, " rows"]:
        """The patch of each of an image's rows; negative, or beyond the grid, for other tokens."""
        if example not in self._patches:
            at, first = self.number[example], self.codes.manifest.first_patch
            assert first is not None, "checked at the start"
            self._patches[example] = self.codes.tokens(int(self.start[at]), int(self.stop[at]))[1] - first
        return self._patches[example]

    def of(self, latent: int, examples: Sequence[int]) -> list[Map]:
        """The latent's codes on each image; 0 also for patches that were not encoded."""
        rows, values = self.codes.latent(latent)
        out = []
        for example in examples:
            at, (height, width) = self.number[example], self.grid(example)
            codes, patch = np.zeros(height * width, np.float32), self.patches(example)
            low, high = np.searchsorted(rows, [self.start[at], self.stop[at]])
            fires = patch[rows[low:high] - self.start[at]]
            inside = (fires >= 0) & (fires < len(codes))
            codes[fires[inside]] = values[low:high][inside]
            out.append(codes.reshape(height, width))
        return out


def commonest(grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The grid that most images have; of several the largest."""
    counts = Counter(grids)
    return max(counts, key=lambda grid: (counts[grid], grid[0] * grid[1], grid))


def mean_map(maps: Sequence[Map], grid: tuple[int, int], align: Align = "none") -> Map:
    """The mean over images of a latent's maps on one grid; other grids are resampled to it (bilinear, antialiased).

    centre_of_mass: each map is first shifted so that its centre of mass is in the middle of the grid; what leaves the grid is lost.
    """
    total = np.zeros(grid, np.float64)
    for one in maps:
        total += aligned(resampled(one, grid), align)
    return (total / max(len(maps), 1)).astype(np.float32)


def resampled(one: Float32[np.ndarray, "height width"], grid: tuple[int, int]) -> Map:
    """The map on another grid."""
    if one.shape == grid:
        return one
    image = torch.from_numpy(np.ascontiguousarray(one))[None, None]
    return torch.nn.functional.interpolate(image, size=grid, mode="bilinear", antialias=True)[0, 0].numpy()


def aligned(one: Map, align: Align) -> Map:
    """The map with its centre of mass in the middle, or as it is; a silent one as it is."""
    weight = np.maximum(one, 0)
    if align == "none" or not weight.any():
        return one
    offset = [(n - 1) / 2 - at for n, at in zip(one.shape, center_of_mass(weight), strict=True)]
    return shift(one, offset, order=1, mode="grid-constant").astype(np.float32)
