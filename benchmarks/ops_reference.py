"""Definitions in a few lines of torch, with which tests and benchmarks compare `saev.ops`."""

import torch
from jaxtyping import Float
from torch import Tensor

from saev.ops.coherence import Coherence
from saev.ops.topk import Selected, batchtopk


def batchtopk_codes(h: Float[Tensor, "batch d_sae"], k: int) -> Float[Tensor, "batch d_sae"]:
    """Dense codes: the `batch * k` largest of relu(h) over the whole batch, everything else 0.

    >>> batchtopk_codes(torch.tensor([[1.0, 3.0, 2.0], [-1.0, -2.0, 0.5]]), k=1)
    tensor([[0., 3., 2.],
            [0., 0., 0.]])
    """
    indices, flat = batchtopk(h, k).indices, h.flatten()
    return torch.zeros_like(flat).scatter(0, indices, flat[indices].relu()).view_as(h)


def topk_reference(h: Float[Tensor, "batch d_sae"], k: int) -> Selected:
    """`topk` by sorting each token's pre-activations, in ascending order of indices."""
    indices = h.argsort(dim=1, descending=True)[:, :k].sort(1).values
    indices = (indices + torch.arange(0, h.numel(), h.shape[1])[:, None]).flatten()
    return Selected(h.flatten()[indices], indices)


def batchtopk_reference(h: Float[Tensor, "batch d_sae"], k: int) -> Selected:
    """`batchtopk` by one `torch.topk` over the whole batch."""
    return Selected(*h.flatten().topk(len(h) * k, sorted=False))


def coherence_reference(atoms: Float[Tensor, "n d_model"]) -> Coherence:
    """`coherence` from the Gram matrix."""
    unit = torch.nn.functional.normalize(atoms, dim=1)
    gram = (unit @ unit.T).abs().fill_diagonal_(0)
    per_atom = gram.amax(1)
    flat = gram.argmax()
    return Coherence(per_atom.amax(), per_atom.mean(), torch.stack([flat // len(unit), flat % len(unit)]))


def gram_reference(codes: Float[Tensor, "batch m"]) -> Float[Tensor, "m m"]:
    """Sum over tokens of the outer product of the codes, in float64: one dense product."""
    f = codes.double()
    return f.T @ f
