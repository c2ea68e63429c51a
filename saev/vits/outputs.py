"""What a vision transformer puts out at its end, perhaps with activations replaced on the way."""

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
    """Final features [n, width] by role, normed where the model norms its tokens, and `pooled`, what it returns itself."""
    parts = backbone.anatomy
    assert isinstance(parts, Anatomy)
    seen: list[Tensor] = []

    def see(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output)

    within = replacing(point, change) if point is not None and change is not None else nullcontext()
    with within:
        # registered after `replacing`, so that it sees what was put there
        handle = parts.blocks[-1].register_forward_hook(see)
        try:
            pooled = backbone.trunk(images)
            pooled = pooled[0] if isinstance(pooled, tuple) else pooled  # towers that hand out their tokens too
        finally:
            handle.remove()
        final = parts.norm(seen[0]) if parts.norm is not None else seen[0]
    special = backbone.n_cls + backbone.n_registers
    ends = {"cls": (0, backbone.n_cls), "registers": (backbone.n_cls, special), "patches": (special, final.shape[1])}
    roles = {role: final[:, a:b].flatten(0, 1) for role, (a, b) in ends.items() if a < b}
    return {**roles, POOLED: pooled}
