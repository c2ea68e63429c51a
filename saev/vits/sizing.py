"""The settings resize, n_patches and fit of a backbone, and the transform and shape that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from saev.settings import listed
from saev.vits.flex import FITS, FlexTransform
from saev.vits.shape import VitShape
from saev.vits.transform import ImageTransform

Transform = ImageTransform | FlexTransform
N_PATCHES = 256


@dataclass(frozen=True)
class Sizing:
    """How images are resized for a backbone; ValueError where the settings contradict each other."""

    resize: str
    n_patches: int | None = None
    fit: str | None = None

    def __post_init__(self):
        if self.resize not in ("crop", "squash", "flex"):
            raise ValueError(
                f"vit.resize={self.resize}: choose crop (centre, aspect kept), squash (whole image) or flex (a grid per image)."
            )
        for key in () if self.flex else ("n_patches", "fit"):
            if (value := getattr(self, key)) is not None:
                raise ValueError(f"vit.{key}={value} belongs to vit.resize=flex: add it, or leave vit.{key} out.")
        if self.n_patches is not None and self.n_patches < 1:
            raise ValueError(
                f"vit.n_patches={self.n_patches}: must be at least 1 (maximal number of patches per image, e.g. 256 or 640)."
            )
        if self.fit not in (None, *FITS):
            raise ValueError(f"vit.fit={self.fit}: choose {listed(list(FITS))}.")

    @property
    def flex(self) -> bool:
        """Whether the grid depends on the image."""
        return self.resize == "flex"

    def shape(self, fixed: VitShape) -> VitShape:
        """The shape of a backbone whose shape at its fixed size is `fixed`."""
        if not self.flex:
            return fixed
        return replace(fixed, grid=None, image_size=None, most_patches=self.n_patches or N_PATCHES)

    def transform(
        self, shape: VitShape, mean: Sequence[float], std: Sequence[float], interpolation: str = "bicubic"
    ) -> Transform:
        """The transform of images for a backbone of this shape, with its training's mean, std and interpolation."""
        look = tuple(mean), tuple(std), interpolation
        if self.flex:
            assert shape.most_patches is not None
            return FlexTransform(shape.most_patches, shape.patch, *look, fit=self.fit or "stretch")
        assert shape.image_size is not None
        return ImageTransform(shape.image_size, *look, resize="squash" if self.resize == "squash" else "crop")


def one_size(what: str) -> str:
    """The error message for flex with a model of fixed positions."""
    return f"vit.resize=flex: {what} takes images of one size; use vit.resize=crop or squash, or a timm ViT, e.g. vit=dinov3_vits16."


def geometry(shape: VitShape, transform: Transform) -> dict[str, Any]:
    """The part of a backbone's identity that describes how images become tokens."""
    flex = isinstance(transform, FlexTransform)
    of_flex = {"n_patches": transform.n_patches, "fit": transform.fit, "patch": transform.patch} if flex else {}
    return {
        "image_size": list(shape.image_size) if shape.image_size else None,
        "grid": list(shape.grid) if shape.grid else None,
        "resize": "flex" if flex else transform.resize,
        "interpolation": transform.interpolation,
        "mean": list(transform.mean),
        "std": list(transform.std),
        "d_model": shape.d_model,
        "depth": shape.depth,
        **of_flex,
    }
