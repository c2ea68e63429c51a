"""Models of timm: plain vision transformers (DINOv2 and v3, SigLIP 2, CLIP, PE, EVA, DeiT), and those of stages, such as CNNs."""

import difflib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from saev.vits import anatomy, checkpoint, hub
from saev.vits.anatomy import Anatomy
from saev.vits.backbone import Backbone
from saev.vits.feature_maps import FeatureMaps, of_stages
from saev.vits.sizing import Transform, one_size
from saev.vits.source import ModelSource


@dataclass(kw_only=True)
class TimmSource(ModelSource):
    """A timm model by its name with the tag of its weights, e.g. vit_large_patch16_dinov3.lvd1689m.

    `checkpoint` has timm's keys, or the original authors' if timm can map them.
    """

    library = "timm"

    @abstractmethod
    def _build(self, pretrained: bool = False) -> Any:
        """The timm model at its size, with the hub's weights or new ones."""

    def _check_hub(self) -> None:
        cfg = self._skeleton.pretrained_cfg
        if repo := cfg.get("hf_hub_id"):
            # the files that timm tries, in its order
            file = cfg.get("hf_hub_filename")
            hub.check_hub(repo, [file] if file else ["model.safetensors", "pytorch_model.bin"], self.name)
        elif url := cfg.get("url"):
            hub.check_url(url, self.name)
        else:
            raise ValueError(hub.unavailable(self.name, f"timm has none for vit.arch={self.arch}"))

    def load(self, device: str = "cpu") -> Backbone:
        if self.random_weights:
            self.check()
            model = self._randomised()
        elif self.checkpoint:
            model = self._build()
            state = checkpoint.read_state(checkpoint.check_file(self.checkpoint))
            checkpoint.fit(model, state, f"vit.checkpoint={self.checkpoint}")
        else:
            self.check()
            model = self._build(pretrained=True)
        return Backbone(self.name, model, *self._parts(model)).to(device)


@dataclass(kw_only=True)
class TimmVit(TimmSource):
    """A plain vision transformer of timm: a layer is a block."""

    def _build(self, pretrained: bool = False) -> Any:
        return build(self.arch, self.img_size, self.sizing.flex, pretrained)

    def _parts(self, model: Any) -> tuple[Anatomy, Transform]:
        parts = anatomy.of_timm(model, str(self.arch))
        parts = replace(parts, shape=self.sizing.shape(parts.shape))
        return parts, self.sizing.transform(parts.shape, *look_of(model))


@dataclass(kw_only=True)
class TimmCnn(TimmSource):
    """A timm model of stages (ResNet, ConvNeXt, Swin, TinyViT, ...): a layer is a stage, a cell of its map a token."""

    def _build(self, pretrained: bool = False) -> Any:
        if self.sizing.flex:
            raise ValueError(one_size(f"vit.arch={self.arch} (its stages)"))
        try:
            return create(self.arch, {"img_size": size_of(self.img_size)} if self.img_size else {}, pretrained)
        except TypeError:  # a CNN takes any size and has no such option
            return create(self.arch, {}, pretrained)

    def _parts(self, model: Any) -> tuple[FeatureMaps, Transform]:
        size = size_of(self.img_size or model.pretrained_cfg["input_size"][1:])
        parts = of_stages(model, str(self.arch), size)
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


def create(arch: str | None, options: Mapping[str, Any], pretrained: bool = False) -> Any:
    """A timm model without a classifier; ValueError for a name unknown to timm, TypeError for an unknown option."""
    import timm

    if not arch:
        raise ValueError("vit.arch is not set: name a timm model, e.g. vit.arch=vit_small_patch14_dinov2.lvd142m.")
    if not timm.is_model(arch):
        near = difflib.get_close_matches(arch.split(".")[0], timm.list_models(), 3)
        raise ValueError(f"vit.arch={arch} is not a model of timm {timm.__version__}: did you mean {', '.join(near)}?")
    try:
        return timm.create_model(arch, pretrained=pretrained, num_classes=0, **options)
    except RuntimeError as error:
        if "pretrained tag" not in str(error):
            raise
        raise ValueError(f"vit.arch={arch}: {error}; see timm.list_pretrained('{arch.split('.')[0]}*').") from error


def size_of(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Pixels (height, width) of a size that is one number or two.

    >>> size_of(224)
    (224, 224)
    """
    return (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])


def look_of(model: nn.Module) -> tuple[Sequence[float], Sequence[float], str]:
    """Mean, std and interpolation of a timm model's training images, from its configuration."""
    cfg: Any = model.pretrained_cfg
    return cfg["mean"], cfg["std"], cfg.get("interpolation") or "bicubic"
