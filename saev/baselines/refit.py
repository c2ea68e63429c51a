"""Least squares on a few atoms per token."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

RIDGE = 1e-9  # relative to a Gram matrix of unit diagonal: parallel atoms get equal codes
CHUNK = 1 << 23  # float64 values of gathered atoms at a time, 64 MiB


def least_squares_on(
    y: Float[Tensor, "batch d_model"],
    unit: Float[Tensor, "n d_model"],
    kept: Int64[Tensor, "batch k"],
    used: Bool[Tensor, "batch k"],
) -> Float[Tensor, "batch k"]:
    """Per token the f that minimises ||y - f @ unit[kept]||^2 + RIDGE ||f||^2, with f = 0 where not `used`.

    The normal equations, k x k per token, in float64. The ridge makes them solvable for linearly dependent atoms,
    and the error never exceeds ||y||^2, that of f = 0.
    """
    k, step = kept.shape[1], max(1, CHUNK // (kept.shape[1] * unit.shape[1]))
    ridge = RIDGE * torch.eye(k, dtype=torch.float64, device=y.device)
    solved = []
    for part, chosen, on in zip(y.split(step), kept.split(step), used.split(step), strict=True):
        atoms = unit[chosen].double() * on[..., None]
        factor = torch.linalg.cholesky_ex(atoms @ atoms.mT + ridge).L
        solved.append(torch.cholesky_solve(atoms @ part.double()[..., None], factor).squeeze(-1))
    return torch.cat(solved).to(y) if solved else y.new_zeros(0, k)
