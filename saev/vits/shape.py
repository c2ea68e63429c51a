"""Sizes of a backbone, known without its weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from saev.vits.flex import choose_grid


@dataclass(frozen=True)
class VitShape:
    """Width, depth and tokens of a backbone; the grid is one for all images or depends on the image."""

    d_model: int
    depth: int
    n_cls: int
    n_registers: int
    grid: tuple[int, int] | None
    """Patches (h, w) of every image; None if it depends on the image."""
    image_size: tuple[int, int] | None
    """Pixels (height, width) of every image; None if they depend on the image."""
    patch: int
    """Side of a patch in pixels."""
    most_patches: int | None = None
    """Maximal number of patches per image, if the grid depends on the image."""

    stages: tuple["VitShape", ...] = ()
    """The shape at each layer of a hierarchical model; the other fields are then those of the last layer."""

    def at(self, layers: Sequence[int]) -> "VitShape":
        """The shape at these (true) layers; ValueError where they differ, or do not cover the image evenly."""
        if not self.stages:
            return self  # the same everywhere in a vision transformer
        stages = [self.stages[layer] for layer in layers]
        if any(other != stages[0] for other in stages):
            sizes = "; ".join(f"{n}: {s.d_model} x {s.n_patches}" for n, s in zip(layers, stages, strict=True))
            raise ValueError(
                f"layer={list(layers)}: these stages differ in width x cells ({sizes}): record one at a time, layer={layers[0]}."
            )
        shape = stages[0]
        assert shape.grid and shape.image_size
        if shape.image_size != (shape.grid[0] * shape.patch, shape.grid[1] * shape.patch):
            raise ValueError(
                f"layer={layers[0]}: {shape.grid[0]} x {shape.grid[1]} cells of {shape.patch} pixels do not cover "
                f"{shape.image_size[0]} x {shape.image_size[1]} pixels evenly: set vit.img_size to a multiple of 32, e.g. vit.img_size=224."
            )
        return shape

    @property
    def n_patches(self) -> int:
        """Patches per image; their maximum if the grid depends on the image."""
        return self.grid[0] * self.grid[1] if self.grid else self.most_patches or 0

    @property
    def roles(self) -> dict[str, int]:
        """Tokens per image by role, in stored order; -1: it depends on the image."""
        return {"cls": self.n_cls, "registers": self.n_registers, "patches": self.n_patches if self.grid else -1}

    def slices(self, n_tokens: int) -> dict[str, slice]:
        """The tokens of each role among an image's n_tokens."""
        special = self.n_cls + self.n_registers
        ends = {"cls": (0, self.n_cls), "registers": (self.n_cls, special), "patches": (special, n_tokens)}
        return {role: slice(*pair) for role, pair in ends.items()}

    def grid_of(self, width: int, height: int) -> tuple[int, int]:
        """Patches (h, w) of an image of width x height pixels."""
        return self.grid or choose_grid(width, height, self.n_patches)


def patch_grid(image_size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Patches per (height, width) of an image; ValueError where they do not cover it.

    >>> patch_grid((112, 224), 14)
    (8, 16)
    """
    for pixels in image_size:
        if pixels <= 0 or pixels % patch:
            fits = max(pixels // patch, 1) * patch
            raise ValueError(
                f"vit.img_size={pixels} is not a multiple of the patch size {patch}: "
                f"use vit.img_size={fits} or {fits + patch}."
            )
    return image_size[0] // patch, image_size[1] // patch
