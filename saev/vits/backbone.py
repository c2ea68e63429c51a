"""Backbones behind one interface: the tokens at chosen layers, at a chosen hook point.

    resid_pre --+--> norm --> attention --(attn)--+--> norm --> mlp --(mlp)--+--> resid_post [--> final norm: norm]
                +---------------------------------+--------------------------+
so that resid_post = resid_pre + attn + mlp. In a hierarchical model a layer is a stage and resid_post its feature map.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from saev.vits.shape import VitShape
from saev.vits.sizing import Transform


@runtime_checkable
class Readable(Protocol):
    """A model whose sizes are known and whose activations can be read."""

    @property
    def shape(self) -> VitShape:
        """Sizes of the model."""
        ...

    def read(self, images: Tensor, layers: Sequence[int], hook: str) -> dict[int, Tensor]:
        """Activations [batch, tokens, width] of each of these (true) layers at a hook point."""
        ...


class Backbone(nn.Module):
    """A loaded model; `forward` returns activations by layer, tokens as cls, registers, patches."""

    def __init__(self, name: str, trunk: nn.Module, anatomy: Readable, transform: Transform):
        super().__init__()
        self.name, self.trunk, self.anatomy, self.transform = name, trunk, anatomy, transform
        shape = self.shape = anatomy.shape
        self.d_model, self.depth, self.grid, self.image_size = shape.d_model, shape.depth, shape.grid, shape.image_size
        self.n_cls, self.n_registers, self.n_patches = shape.n_cls, shape.n_registers, shape.n_patches
        self.requires_grad_(False).eval()

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], layers: Sequence[int], hook: str = "resid_post"
    ) -> dict[int, Float[Tensor, "batch tokens d_model"]]:
        """Activations of each layer at `hook`, in ascending order of layers; deeper blocks do not run.

        Layers count from 0, negative ones from the end. Raises ValueError for a layer or hook that does not exist.
        """
        layers = resolve_layers(layers, self.depth, self.name)
        shape, (height, width) = self.shape.at(layers), images.shape[2:]
        grid = shape.grid or (height // shape.patch, width // shape.patch)
        expected = (len(images), shape.n_cls + shape.n_registers + grid[0] * grid[1], shape.d_model)
        acts = self.anatomy.read(images, layers, hook)
        for value in acts.values():
            if value.shape != expected:
                raise ValueError(
                    f"{self.name} yields {tuple(value.shape)}, expected {expected} (images, tokens, width): the images must "
                    "have its size; it may not be a plain vision transformer."
                )
        return {layer: acts[layer] for layer in layers}


def resolve_layers(layers: Sequence[int], depth: int, name: str = "vit") -> tuple[int, ...]:
    """True block indices, ascending, without duplicates; ValueError if one is out of range.

    >>> resolve_layers([-1, 3], 12)
    (3, 11)
    """
    if not layers:
        raise ValueError(f"layer is not set: choose layers of {name}, 0 to {depth - 1}, e.g. layer={depth - 2}.")
    for layer in layers:
        if not -depth <= layer < depth:
            raise ValueError(
                f"layer={layer} is out of range: {name} has {depth} layers, choose 0 to {depth - 1} "
                f"(or {-depth} to -1, counted from the end)."
            )
    return tuple(sorted({layer % depth for layer in layers}))
