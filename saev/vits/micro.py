"""A small vision transformer with random weights, for tests and dry runs: its features mean nothing."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from saev.vits import anatomy
from saev.vits.anatomy import Anatomy
from saev.vits.backbone import Backbone
from saev.vits.shape import VitShape
from saev.vits.sizing import Transform, geometry
from saev.vits.source import VitSource


@dataclass(kw_only=True)
class MicroVit(VitSource):
    """A ViT of timm's class with seeded random weights, the same on every machine for one version of torch."""

    name: str = "micro"
    img_size: int = 32
    patch_size: int = 8
    depth: int = 4
    d_model: int = 32
    cls_token: bool = True
    registers: int = 0
    seed: int = 0

    def check(self) -> None:
        self.shape()

    def _build(self) -> Any:
        from timm.models.vision_transformer import VisionTransformer

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return VisionTransformer(
                self.img_size, self.patch_size, embed_dim=self.d_model, depth=self.depth, num_heads=2, num_classes=0,
                class_token=self.cls_token, reg_tokens=self.registers, fc_norm=False,
                global_pool="token" if self.cls_token else "avg", dynamic_img_size=self.sizing.flex,
            )  # fmt: skip

    def _parts(self) -> tuple[Any, Anatomy, Transform]:
        model = self._build()
        parts = anatomy.of_timm(model, self.name)
        parts = replace(parts, shape=self.sizing.shape(parts.shape))
        return model, parts, self.sizing.transform(parts.shape, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def shape(self) -> VitShape:
        return self._parts()[1].shape

    def identity(self) -> dict[str, Any]:
        _, parts, transform = self._parts()
        model = {"library": "timm", "arch": "micro", "weights": f"random:{self.seed}"}
        tokens = {"cls": self.cls_token, "registers": self.registers}
        return model | tokens | geometry(parts.shape, transform)

    def load(self, device: str = "cpu") -> Backbone:
        model, parts, transform = self._parts()
        return Backbone(self.name, model, parts, transform).to(device)
