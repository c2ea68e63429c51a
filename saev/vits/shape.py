"""Sizes of a backbone: all that is known of it without its weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from saev.vits.flex import choose_grid


@dataclass(frozen=True)
class VitShape:
    """Width, depth and tokens of a backbone; its grid is one for all pictures, or each picture's own."""

    d_model: int
    depth: int
    n_cls: int
    n_registers: int
    grid: tuple[int, int] | None
    """Patches (h, w) of every picture; None where it depends on the picture."""
    image_size: tuple[int, int] | None
    """Pixels (height, width) of every picture; None where they depend on the picture."""
    patch: int
    """Pixels of a patch's side."""
    most_patches: int | None = None
    """The most patches a picture may have, where the grid depends on it."""

    stages: tuple["VitShape", ...] = ()
    """The shape at each layer of a hierarchical model; the other fields are then the last one's."""

    def at(self, layers: Sequence[int]) -> "VitShape":
        """The shape at these (true) layers; ValueError where they differ, or do not cover the picture evenly."""
        if not self.stages:
            return self  # the same everywhere in a vision transformer
        chosen = [self.stages[layer] for layer in layers]
        if any(other != chosen[0] for other in chosen):
            sizes = "; ".join(f"{n}: {s.d_model} x {s.n_patches}" for n, s in zip(layers, chosen, strict=True))
            raise ValueError(
                f"layer={list(layers)}: these stages differ in width x cells ({sizes}): record each by itself, layer={layers[0]}."
            )
        shape = chosen[0]
        assert shape.grid and shape.image_size
        if shape.image_size != (shape.grid[0] * shape.patch, shape.grid[1] * shape.patch):
            raise ValueError(
                f"layer={layers[0]}: {shape.grid[0]} x {shape.grid[1]} cells of {shape.patch} pixels do not cover "
                f"{shape.image_size[0]} x {shape.image_size[1]} pixels evenly: set vit.img_size to a multiple of 32, e.g. vit.img_size=224."
            )
        return shape

    @property
    def n_patches(self) -> int:
        """Patches per picture; the most there may be where the grid depends on the picture."""
        return self.grid[0] * self.grid[1] if self.grid else self.most_patches or 0

    @property
    def n_tokens(self) -> int:
        """Tokens per picture of all roles; the most there may be where the grid depends on the picture."""
        return self.n_cls + self.n_registers + self.n_patches

    @property
    def roles(self) -> dict[str, int]:
        """Tokens per picture by role, in the order in which they are stored; -1: it depends on the picture."""
        return {"cls": self.n_cls, "registers": self.n_registers, "patches": self.n_patches if self.grid else -1}

    def grid_of(self, width: int, height: int) -> tuple[int, int]:
        """Patches (h, w) of a picture of width x height pixels."""
        return self.grid or choose_grid(width, height, self.n_patches)


def patch_grid(image_size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Patches per (height, width) of an image; ValueError where they do not cover it, the edge would go unseen.

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
