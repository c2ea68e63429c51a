"""Faster forward passes of a loaded backbone: weights rounded once instead of in every pass, blocks compiled."""

from collections.abc import Sequence

import torch
from torch import nn

from saev.vits.anatomy import Anatomy
from saev.vits.backbone import Backbone
from saev.vits.shape import VitShape

ROUNDED = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)  # autocast rounds their parameters before it uses them
CHECKED_IMAGES = 2


def round_weights(backbone: Backbone, layers: Sequence[int], hook: str, dtype: torch.dtype) -> bool:
    """Store the parameters that autocast to `dtype` would round in every pass in `dtype`: half the bytes, the same activations.

    All else, the residual stream too, stays in float32. Checked on random images: returns False, and leaves the backbone as it is,
    where activations are not the same bits.
    """
    parameters = [p for m in backbone.modules() if isinstance(m, ROUNDED) for p in m.parameters(recurse=False)]
    originals = [(p, p.data) for p in parameters if p.dtype == torch.float32]
    images = random_images(backbone.shape, next(backbone.parameters()).device)

    def activations() -> dict[int, torch.Tensor]:
        with torch.inference_mode(), torch.autocast(images.device.type, dtype=dtype):
            return backbone(images, layers, hook)

    before = activations()
    for parameter, data in originals:
        parameter.data = data.to(dtype)
    after = activations()
    if all(torch.equal(before[layer], after[layer]) for layer in before):
        return True
    for parameter, data in originals:
        parameter.data = data
    return False


def random_images(shape: VitShape, device: torch.device) -> torch.Tensor:
    """Noise of the backbone's size, or of one of its sizes."""
    side = max(1, int(shape.n_patches**0.5)) * shape.patch
    size = shape.image_size or (side, side)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(CHECKED_IMAGES, 3, *size, generator=generator).to(device)


def compile_blocks(backbone: Backbone) -> None:
    """Compile the blocks by `torch.compile`: one graph for all blocks for each number of images in a pass.

    The forward methods alone, so that hooks run outside. Not with dynamic sizes: a size's rounding would depend on the sizes before it.
    """
    assert isinstance(backbone.anatomy, Anatomy)
    for block in backbone.anatomy.blocks:
        block.forward = torch.compile(block.forward, dynamic=False)


def check_compilable(shape: VitShape, hook: str, name: str) -> None:
    """ValueError where `record.compile=true` is not possible."""
    remedy = "use record.compile=false"
    if shape.stages:
        raise ValueError(f"record.compile=true: {name} has stages instead of transformer blocks; {remedy}.")
    if shape.grid is None:
        raise ValueError(f"record.compile=true compiles for each size of image, vit.resize=flex has many; {remedy}.")
    if hook in ("attn", "mlp"):
        raise ValueError(f"record.compile=true joins attention and MLP, record.hook={hook} is between them; {remedy}.")
