"""Common parts of timm's models: names, weights, and the model without weights."""

import difflib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from saev.vits import checkpoint, hub
from saev.vits.backbone import Backbone, Readable
from saev.vits.shape import VitShape
from saev.vits.sizing import Transform, geometry
from saev.vits.source import VitSource


@dataclass(kw_only=True)
class TimmSource(VitSource):
    """A timm model by its name; weights from the hub, its local cache, or a local file."""

    arch: str | None = field(kw_only=False)
    """timm's name with the tag of its weights, e.g. vit_large_patch16_dinov3.lvd1689m."""
    checkpoint: str | None = None
    """A local .safetensors or .pth with timm's keys, or the original authors' if timm can map them."""
    img_size: int | Sequence[int] | None = None
    """Pixels (height, width), a multiple of the patch size; None for the training size; ignored with flex."""

    def __post_init__(self):
        self.name = self.name or str(self.arch)

    @abstractmethod
    def _build(self, pretrained: bool = False) -> Any:
        """The timm model at its size, with the hub's weights or new ones."""

    @abstractmethod
    def _parts(self, model: Any) -> tuple[Readable, Transform]:
        """The readable parts of a built model and its transform of images."""

    @cached_property
    def _skeleton(self) -> Any:
        """The model without its weights (meta device): 0.1 s for any size."""
        with torch.device("meta"):
            return self._build()

    def check(self) -> None:
        if self.checkpoint:
            checkpoint.check_file(self.checkpoint)
        self.shape()
        if not self.checkpoint:
            self._check_hub()

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

    def shape(self) -> VitShape:
        return self._parts(self._skeleton)[0].shape

    def identity(self) -> dict[str, Any]:
        file = checkpoint.check_file(self.checkpoint) if self.checkpoint else None
        parts, transform = self._parts(self._skeleton)
        return {
            "library": "timm",
            "arch": self.arch,
            "weights": f"sha256:{checkpoint.digest(file)}" if file else "pretrained",
            **geometry(parts.shape, transform),
        }

    def load(self, device: str = "cpu") -> Backbone:
        if self.checkpoint:
            model = self._build()
            state = checkpoint.read_state(checkpoint.check_file(self.checkpoint))
            checkpoint.fit(model, state, f"vit.checkpoint={self.checkpoint}")
        else:
            self.check()
            model = self._build(pretrained=True)
        return Backbone(self.name, model, *self._parts(model)).to(device)


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
