"""Any dictionary's codes of a batch as (latent, value) pairs, computed on the device of the batch.

    top-k autoencoders   h ──topk──▶ pairs                      the dense codes are never computed
    all others           encode ──▶ dense batch ──▶ its nonzeros, or the k largest |codes| of each token

Only these pairs leave the device; a dense [batch, d_sae] exists for one batch at most.
"""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32
from torch import Tensor

from saev.dictionary import Dictionary
from saev.nn.autoencoder import SparseAutoencoder
from saev.ops.sparse import SparseCodes
from saev.ops.topk import topk_indices


def sparse_codes(dictionary: Dictionary, acts: Float[Tensor, "batch d_model"], most: int | None = None) -> SparseCodes:
    """The nonzero codes of raw activations, per token in ascending order of latents (int32).

    With `most`, at most so many per token, the largest by |code|. ValueError where the width is not the dictionary's.
    """
    if acts.shape[-1] != dictionary.d_model:
        raise ValueError(
            f"activations have d_model={acts.shape[-1]}, this dictionary takes d_model={dictionary.d_model}: encode "
            "activations of the same backbone."
        )
    if isinstance(dictionary, SparseAutoencoder) and (k := dictionary.sparsifier.k_per_token) is not None:
        h = dictionary.pre_activations(dictionary.normaliser(acts))
        latents = topk_indices(h, k if most is None else min(k, most))
        return from_pairs(latents, h.gather(1, latents).relu())
    codes = dictionary.encode(acts)
    if most is None or most >= codes.shape[1]:
        return from_dense(codes)
    latents = codes.abs().topk(most, dim=1, sorted=False).indices
    return from_pairs(latents, codes.gather(1, latents))


def from_pairs(latents: Int[Tensor, "batch k"], values: Float[Tensor, "batch k"]) -> SparseCodes:
    """CSR from k pairs per token, in any order; pairs of value 0 are left out.

    >>> from_pairs(torch.tensor([[4, 1], [0, 3]]), torch.tensor([[0.5, 2.0], [0.0, 1.0]]))
    SparseCodes(offsets=tensor([0, 2, 3]), latents=tensor([1, 4, 3], dtype=torch.int32), values=tensor([2.0000, 0.5000, 1.0000]))
    """
    latents, values = by_latent(latents, values)
    active = values != 0
    offsets = torch.nn.functional.pad(active.sum(1).cumsum(0), (1, 0))
    if offsets[-1] == active.numel():  # the usual case: copying is ten times as fast as masking
        return SparseCodes(offsets, latents.flatten(), values.flatten())
    return SparseCodes(offsets, latents[active], values[active])


def by_latent(
    latents: Int[Tensor, "batch k"], values: Float[Tensor, "batch k"]
) -> tuple[Int32[Tensor, "batch k"], Float32[Tensor, "batch k"]]:
    """Pairs in ascending order of latents within a row.

    Latent and value are packed into one integer, so that one sort moves both: on a CPU five times as fast
    as an argsort and two gathers.
    """
    packed = (latents.long() << 32) | (values.float().view(torch.int32).long() & 0xFFFFFFFF)
    on_cpu = packed.device.type == "cpu"
    packed = torch.from_numpy(np.sort(packed.numpy(), axis=1)) if on_cpu else packed.sort(dim=1).values
    halves = packed.view(torch.int32)  # the lower half, the value, comes first in memory
    return halves[:, 1::2], halves[:, ::2].view(torch.float32)


def from_dense(codes: Float[Tensor, "batch d_sae"]) -> SparseCodes:
    """CSR of all codes that are not 0.

    >>> from_dense(torch.tensor([[0.0, 2.0, -0.5], [0.0, 0.0, 1.0]]))
    SparseCodes(offsets=tensor([0, 2, 3]), latents=tensor([1, 2, 2], dtype=torch.int32), values=tensor([ 2.0000, -0.5000,  1.0000]))
    """
    batch, d_sae = codes.shape
    flat = codes.flatten()
    indices = nonzero(flat)
    offsets = torch.searchsorted(indices, torch.arange(batch + 1, device=codes.device) * d_sae)
    return SparseCodes(offsets, (indices % d_sae).int(), flat[indices])


def nonzero(flat: Float[Tensor, " n"]) -> Int[Tensor, " nnz"]:
    """The indices of the nonzero values, ascending."""
    if flat.device.type == "cpu":  # NumPy is five times as fast
        return torch.from_numpy(np.flatnonzero((flat != 0).numpy()))
    return flat.nonzero().squeeze(1)


def narrowed(values: Float[Tensor, " nnz"], dtype: torch.dtype) -> Float[Tensor, " nnz"]:
    """Codes rounded to `dtype`, infinite beyond its range; a code that would round to 0 becomes the smallest number of its
    sign, so that a latent that fires still does.

    >>> narrowed(torch.tensor([0.5, 1e-9, -1e-9]), torch.float16)
    tensor([ 5.0000e-01,  5.9605e-08, -5.9605e-08], dtype=torch.float16)
    """
    rounded = values.to(dtype)
    least = torch.tensor(torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps, device=values.device).to(dtype)
    return torch.where(rounded == 0, torch.copysign(least, rounded), rounded)
