"""Hierarchical models of timm (CNNs and transformers), whose feature maps are recorded as tokens."""

from dataclasses import dataclass
from typing import Any

from saev.vits.feature_maps import FeatureMaps, of_stages
from saev.vits.sizing import Transform, one_size
from saev.vits.timm_source import TimmSource, create, look_of, size_of


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
