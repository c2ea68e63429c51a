"""Decoding of codes, dense or sparse, behind one name each."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.nn.activations import Codes
from saev.ops import sparse
from saev.ops.sparse import SparseCodes


def decode(f: Codes, w_dec: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, "batch d_model"]:
    """f @ w_dec."""
    return sparse.decode_sparse(f, w_dec) if isinstance(f, SparseCodes) else f @ w_dec


def decode_prefixes(
    f: Codes, w_dec: Float[Tensor, "d_sae d_model"], ends: Sequence[int]
) -> Float[Tensor, "batch prefixes d_model"]:
    """f[:, :end] @ w_dec[:end] for each end, every group of latents being decoded once."""
    if isinstance(f, SparseCodes):
        return sparse.decode_prefixes(f, w_dec, ends)
    starts = [0, *ends[:-1]]
    return torch.stack([f[:, a:b] @ w_dec[a:b] for a, b in zip(starts, ends, strict=True)], 1).cumsum(1)


def firings(f: Codes, d_sae: int) -> Int[Tensor, " d_sae"]:
    """On how many tokens of the batch each latent is active."""
    return f.firings(d_sae) if isinstance(f, SparseCodes) else (f != 0).sum(0)
