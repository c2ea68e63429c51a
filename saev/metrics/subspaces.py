"""Similarity of the spans of two sets of atoms, whatever the atoms in them: dictionaries may share a subspace and no atom."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Subspaces(NamedTuple):
    """The agreement of two subspaces and that of random ones."""

    agreement: (
        float  # mean over the principal angles of cos^2: 1 where one contains the other, 0 where they are orthogonal
    )
    null: float  # its expectation for independent random subspaces of the same dimensions


def subspace_agreement(a: Float[Tensor, "n d_model"], b: Float[Tensor, "m d_model"]) -> Subspaces:
    """Of the spans of the rows, of dimensions r and s <= d_model: ||Q_a^T Q_b||_F^2 / min(r, s), and max(r, s) / d_model.

    >>> subspace_agreement(torch.eye(4)[:2], torch.eye(4)[1:3])
    Subspaces(agreement=0.5, null=0.5)
    """
    q_a, q_b = basis(a), basis(b)
    dimensions = q_a.shape[1], q_b.shape[1]
    if min(dimensions) == 0:
        return Subspaces(float("nan"), float("nan"))
    squares = (q_a.T @ q_b).square().sum().item()
    return Subspaces(squares / min(dimensions), max(dimensions) / a.shape[1])


def basis(rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "d_model rank"]:
    """An orthonormal basis of the span of the rows, float64; directions below the precision of float32 are left out."""
    u, s, _ = torch.linalg.svd(rows.detach().double().T, full_matrices=False)
    return u[:, s > s.amax(0, keepdim=True) * max(rows.shape) * torch.finfo(torch.float32).eps]
