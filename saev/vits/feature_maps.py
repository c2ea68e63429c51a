"""Hierarchical models of timm (CNNs, Swin, TinyViT, ...): the feature map of a stage is a grid of tokens.

A stage is a feature level of timm's `features_only`: 0 is the finest (the stem of a ResNet, at half the image's size),
the last the coarsest. Stages differ in width and grid, so a recording contains one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saev.vits.shape import VitShape


@dataclass(frozen=True)
class FeatureMaps:
    """The stages of a timm model, read as tokens: a map [channels, h, w] is h * w patches of that width."""

    name: str
    shape: VitShape
    model: Any

    def read(self, images: Tensor, layers: Sequence[int], hook: str) -> dict[int, Tensor]:
        """The maps of these stages as [batch, h * w, channels]; deeper stages do not run."""
        if hook != "resid_post":
            raise ValueError(
                f"record.hook={hook}: of {self.name} only the outputs of stages can be recorded; use record.hook=resid_post."
            )
        maps = stage_maps(self.model, images, layers)
        return {layer: value.flatten(2).transpose(1, 2) for layer, value in zip(layers, maps, strict=True)}


def of_stages(model: Any, arch: str, image_size: tuple[int, int]) -> FeatureMaps:
    """The stages of a timm model at a size in pixels, found by running it (free of cost on the meta device).

    Raises ValueError where the model has no stages, or cannot take the size.
    """
    stages = getattr(model, "feature_info", None)
    if not stages or not hasattr(model, "forward_intermediates"):
        raise ValueError(f"vit.arch={arch} ({type(model).__name__}) has no stages that timm can read: choose another.")
    if getattr(model, "num_prefix_tokens", None) is not None:
        raise ValueError(f"vit.arch={arch} is a plain vision transformer: use vit=timm vit.arch={arch}.")
    blank = torch.zeros(1, 3, *image_size, device=next(model.parameters()).device)
    try:
        with torch.no_grad():
            maps = stage_maps(model.eval(), blank, range(len(stages)))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"vit.img_size={image_size}: {arch} cannot take it ({error}); use vit.img_size=null."
        ) from error
    shapes = tuple(
        VitShape(value.shape[1], len(maps), 0, 0, (value.shape[2], value.shape[3]), image_size, info["reduction"])
        for value, info in zip(maps, stages, strict=True)
    )
    return FeatureMaps(arch, replace(shapes[-1], stages=shapes), model)


def stage_maps(model: Any, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """The maps [batch, channels, h, w] of these stages, as timm's feature extractors return them."""
    return model.forward_intermediates(
        images, indices=list(layers), norm=False, stop_early=True, output_fmt="NCHW", intermediates_only=True
    )
