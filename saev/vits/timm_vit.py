"""Any plain vision transformer of timm: DINOv2 and v3, SigLIP 2, CLIP, PE, EVA, DeiT, supervised ones."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from saev.vits import anatomy, checkpoint, hub
from saev.vits.anatomy import VitShape
from saev.vits.backbone import Backbone
from saev.vits.source import VitSource, geometry
from saev.vits.transform import ImageTransform, Resize


@dataclass(kw_only=True)
class TimmVit(VitSource):
    """A timm model by its name; weights from the hub, its local cache, or a file of one's own."""

    arch: str | None
    """timm's name with the tag of its weights, e.g. vit_large_patch16_dinov3.lvd1689m."""
    checkpoint: str | None = None
    """A local .safetensors or .pth: timm's keys or the original authors' where timm can map them."""
    img_size: int | Sequence[int] | None = None
    """Pixels (height, width), a multiple of the patch size; None for the size it was trained at."""
    resize: Resize = "crop"

    def check(self) -> None:
        if self.checkpoint:
            checkpoint.check_file(self.checkpoint)
        self.shape()
        if not self.checkpoint:
            self._check_hub()

    def _check_hub(self) -> None:
        cfg = self._skeleton.pretrained_cfg
        if repo := cfg.get("hf_hub_id"):
            # the files that timm looks for, in its order
            given = cfg.get("hf_hub_filename")
            hub.check_hub(repo, [given] if given else ["model.safetensors", "pytorch_model.bin"], self.name)
        elif url := cfg.get("url"):
            hub.check_url(url, self.name)
        else:
            raise ValueError(hub.unavailable(self.name, f"timm has none for vit.arch={self.arch}"))

    @cached_property
    def _skeleton(self) -> Any:
        """The model without its weights (meta device): 0.1 s for any size."""
        with torch.device("meta"):
            return build(self.arch, self.img_size)

    def shape(self) -> VitShape:
        return anatomy.of_timm(self._skeleton, str(self.arch)).shape

    def identity(self) -> dict[str, Any]:
        file = checkpoint.check_file(self.checkpoint) if self.checkpoint else None
        return {
            "library": "timm",
            "arch": self.arch,
            "weights": f"sha256:{checkpoint.digest(file)}" if file else "pretrained",
            **geometry(self.shape(), transform_of(self._skeleton, self.shape(), self.resize)),
        }

    def load(self, device: str = "cpu") -> Backbone:
        if self.checkpoint:
            model = build(self.arch, self.img_size)
            state = checkpoint.read_state(checkpoint.check_file(self.checkpoint))
            checkpoint.fit(model, state, f"vit.checkpoint={self.checkpoint}")
        else:
            self.check()
            model = build(self.arch, self.img_size, pretrained=True)
        parts = anatomy.of_timm(model, str(self.arch))
        return Backbone(self.name, model, parts, transform_of(model, parts.shape, self.resize)).to(device)


def build(arch: str | None, img_size: int | Sequence[int] | None, pretrained: bool = False) -> Any:
    """A timm model without a classifier at the given size in pixels; ValueError for a name timm does not know."""
    import timm

    if not arch:
        raise ValueError("vit.arch is not set: name a timm model, e.g. vit.arch=vit_small_patch14_dinov2.lvd142m.")
    if not timm.is_model(arch):
        near = difflib.get_close_matches(arch.split(".")[0], timm.list_models(), 3)
        raise ValueError(f"vit.arch={arch} is not a model of timm {timm.__version__}: did you mean {', '.join(near)}?")
    size: dict[str, Any] = (
        {} if img_size is None else {"img_size": img_size if isinstance(img_size, int) else tuple(img_size)}
    )
    try:
        return timm.create_model(arch, pretrained=pretrained, num_classes=0, **size)
    except TypeError as error:
        raise ValueError(
            f"vit.img_size={img_size}: {arch} has one size only ({error}); use vit.img_size=null."
        ) from error
    except RuntimeError as error:
        if "pretrained tag" not in str(error):
            raise
        raise ValueError(f"vit.arch={arch}: {error}; see timm.list_pretrained('{arch.split('.')[0]}*').") from error


def transform_of(model: nn.Module, shape: VitShape, resize: Resize) -> ImageTransform:
    """The picture a timm model was trained to see, by its own configuration."""
    cfg: Any = model.pretrained_cfg
    return ImageTransform(
        shape.image_size, tuple(cfg["mean"]), tuple(cfg["std"]), cfg.get("interpolation") or "bicubic", resize
    )
