"""Plain vision transformers of timm: DINOv2 and v3, SigLIP 2, CLIP, PE, EVA, DeiT, supervised ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from saev.vits import anatomy
from saev.vits.anatomy import Anatomy
from saev.vits.sizing import Transform, one_size
from saev.vits.timm_source import TimmSource, create, look_of


@dataclass(kw_only=True)
class TimmVit(TimmSource):
    """A plain vision transformer of timm: a layer is a block."""

    def _build(self, pretrained: bool = False) -> Any:
        return build(self.arch, self.img_size, self.sizing.flex, pretrained)

    def _parts(self, model: Any) -> tuple[Anatomy, Transform]:
        parts = anatomy.of_timm(model, str(self.arch))
        parts = replace(parts, shape=self.sizing.shape(parts.shape))
        return parts, self.sizing.transform(parts.shape, *look_of(model))


def build(arch: str | None, img_size: int | Sequence[int] | None, flex: bool = False, pretrained: bool = False) -> Any:
    """A timm model without a classifier, at the given size in pixels or (flex) for images of any shape.

    Raises ValueError for a name unknown to timm, or a size that the model cannot take.
    """
    if not flex:
        options = {} if img_size is None else {"img_size": img_size if isinstance(img_size, int) else tuple(img_size)}
        try:
            return create(arch, options, pretrained)
        except TypeError as error:
            raise ValueError(
                f"vit.img_size={img_size}: {arch} has one size only ({error}); use vit.img_size=null."
            ) from error
    try:
        # positions are interpolated at each forward pass from the training's grid, never from a resampled one
        model = create(arch, {"dynamic_img_size": True}, pretrained)
    except TypeError as error:
        raise ValueError(one_size(f"vit.arch={arch}")) from error
    if not getattr(model, "dynamic_img_size", False):
        raise ValueError(one_size(f"vit.arch={arch}"))
    return model
