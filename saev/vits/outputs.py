"""The outputs of a vision transformer, optionally with activations replaced."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from saev.vits.anatomy import Anatomy
from saev.vits.backbone import Backbone
from saev.vits.hooks import Point, replacing

Change = Callable[[Tensor], Tensor]
POOLED = "pooled"


def outputs(
    backbone: Backbone,
    images: Float[Tensor, "batch 3 height width"],
    point: Point | None = None,
    change: Change | None = None,
) -> dict[str, Tensor]:
    """Final features [n, width] by role, normed if the model norms its tokens, and `pooled`, the model's return value."""
    parts = backbone.anatomy
    assert isinstance(parts, Anatomy)
    last: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        last.append(output)

    with replacing(point, change) if point is not None and change is not None else nullcontext():
        # registered after `replacing`, so that it reads the replaced activations
        handle = parts.blocks[-1].register_forward_hook(keep)
        try:
            pooled = backbone.trunk(images)
            pooled = pooled[0] if isinstance(pooled, tuple) else pooled  # towers that return their tokens too
        finally:
            handle.remove()
        final = parts.norm(last[0]) if parts.norm is not None else last[0]
    slices = backbone.shape.slices(final.shape[1])
    roles = {role: final[:, part].flatten(0, 1) for role, part in slices.items() if part.start < part.stop}
    return {**roles, POOLED: pooled}
