"""One vision transformer with one return type: the tokens at chosen blocks, at a chosen hook point.

    resid_pre --+--> norm --> attention --(attn)--+--> norm --> mlp --(mlp)--+--> resid_post [--> final norm: norm]
                +---------------------------------+--------------------------+
so that resid_post = resid_pre + attn + mlp.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from saev.vits.anatomy import Anatomy
from saev.vits.transform import ImageTransform

HOOKS = ("resid_post", "resid_pre", "attn", "mlp", "norm")


class _Enough(Exception):
    """Every activation asked for has been seen: the deeper blocks need not run."""


class Backbone(nn.Module):
    """A loaded vision transformer; `forward` returns activations by layer, tokens as cls, registers, patches."""

    def __init__(self, name: str, trunk: nn.Module, anatomy: Anatomy, transform: ImageTransform):
        super().__init__()
        self.name, self.trunk, self.anatomy, self.transform = name, trunk, anatomy, transform
        shape = anatomy.shape
        self.d_model, self.depth, self.grid, self.image_size = shape.d_model, shape.depth, shape.grid, shape.image_size
        self.n_cls, self.n_registers, self.n_patches = shape.n_cls, shape.n_registers, shape.n_patches
        self.requires_grad_(False).eval()

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], layers: Sequence[int], hook: str = "resid_post"
    ) -> dict[int, Float[Tensor, "batch tokens d_model"]]:
        """Activations of each layer at `hook`, in ascending order of layers; stops after the deepest one needed.

        Layers count blocks from 0, negative ones from the end. Raises ValueError for a layer or hook that is not there.
        """
        wanted = resolve_layers(layers, self.depth, self.name)
        taken: dict[int, Tensor] = {}

        def take(layer: int, value: Tensor) -> None:
            taken[layer] = value
            if len(taken) == len(wanted):
                raise _Enough

        with self._hooks(wanted, hook, take), suppress(_Enough):
            self.anatomy.run(images)
        finish = self.final_norm() if hook == "norm" else lambda x: x
        result = {layer: finish(taken[layer]) for layer in wanted}
        tokens = self.n_cls + self.n_registers + self.n_patches
        for value in result.values():
            if value.shape != (len(images), tokens, self.d_model):
                raise ValueError(
                    f"{self.name} yields {tuple(value.shape)}, expected {(len(images), tokens, self.d_model)} (images, "
                    "tokens, width): give images of its own size; it may not be a plain vision transformer."
                )
        return result

    def final_norm(self) -> nn.Module:
        """The norm after the last block; ValueError where the model normalises only after pooling."""
        if self.anatomy.norm is None:
            raise ValueError(f"record.hook=norm: {self.name} has no norm over its tokens; use record.hook=resid_post.")
        return self.anatomy.norm

    @contextmanager
    def _hooks(self, layers: Sequence[int], hook: str, take: Callable[[int, Tensor], None]) -> Iterator[None]:
        handles = [self._hook(layer, hook, take) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, layer: int, hook: str, take: Callable[[int, Tensor], None]) -> Any:
        block = self.anatomy.blocks[layer]

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            take(layer, output)

        if hook == "resid_pre":
            return block.register_forward_pre_hook(lambda _, inputs: take(layer, inputs[0]))
        if hook in ("resid_post", "norm"):
            return block.register_forward_hook(after)
        if hook not in HOOKS:
            raise ValueError(f"record.hook={hook}: choose one of {', '.join(HOOKS)}.")
        writer = getattr(block, self.anatomy.writers[hook == "mlp"], None)
        if writer is None:
            raise ValueError(
                f"record.hook={hook}: the blocks of {self.name} ({type(block).__name__}) do not keep attention and MLP "
                "apart; use record.hook=resid_post."
            )
        return writer.register_forward_hook(after)


def resolve_layers(layers: Sequence[int], depth: int, name: str = "vit") -> tuple[int, ...]:
    """True block indices, ascending, each once; ValueError where one is out of range.

    >>> resolve_layers([-1, 3], 12)
    (3, 11)
    """
    if not layers:
        raise ValueError(f"layer is not set: choose blocks of {name}, 0 to {depth - 1}, e.g. layer={depth - 2}.")
    for layer in layers:
        if not -depth <= layer < depth:
            raise ValueError(
                f"layer={layer} is out of range: {name} has {depth} blocks, choose 0 to {depth - 1} "
                f"(or {-depth} to -1, counted from the end)."
            )
    return tuple(sorted({layer % depth for layer in layers}))
