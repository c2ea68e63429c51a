"""The geometric median: the initial bias of a dictionary, robust against outliers."""

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 8192  # rows in float64 at a time


@torch.no_grad()
def geometric_median(
    points: Float[Tensor, "n d"], tolerance: float = 1e-6, max_iterations: int = 200
) -> Float[Tensor, " d"]:
    """The y that minimises the sum over points of ||x - y||, in the dtype and on the device of the points.

    Weiszfeld's iteration from the mean, each step the mean weighted by 1/distance; where y equals a point of the sample, the
    step of Vardi & Zhang (2000, "The multivariate L1-median", eq. 2.6), without which it would not move. Sums are in
    float64. Ends when a step is below `tolerance` times the mean distance, or after `max_iterations`.

    >>> geometric_median(torch.tensor([[0.0], [1.0], [100.0]]))
    tensor([1.])
    """
    if not len(points):
        raise ValueError("the geometric median of no points is not defined: the sample must have at least one token.")
    y = points.double().mean(0) if len(points) <= CHUNK else points.sum(0, dtype=torch.float64) / len(points)
    for _ in range(max_iterations):
        step, distance = _step(points, y)
        y = y + step
        if step.norm() <= tolerance * distance:
            break
    return y.to(points)


def _step(points: Float[Tensor, "n d"], y: Float[Tensor, " d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, ""]]:
    """(the step from y, the mean distance to it)."""
    pull, weights, total, here = torch.zeros_like(y), y.new_zeros(()), y.new_zeros(()), y.new_zeros(())
    for chunk in points.split(CHUNK):
        from_y = chunk.double() - y
        distance = from_y.norm(dim=1)
        meets = distance <= 1e-12 * (1 + y.norm())
        weight = torch.where(meets, 0.0, 1 / distance.clamp_min(1e-300))
        pull += weight @ from_y
        weights, total, here = weights + weight.sum(), total + distance.sum(), here + meets.sum()
    # y moves off a sample point only if the pull of the others exceeds the point's multiplicity.
    held = (1 - here / pull.norm().clamp_min(1e-300)).clamp_min(0)
    return held * pull / weights.clamp_min(1e-300), total / len(points)
