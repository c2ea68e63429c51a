"""Decoding and encoding of sparse codes, with gradients computed from the active pairs alone.

Both weights' gradients are sums over the rows in which a latent is active: products with the transposed pairs (CSC).
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from saev.ops import gpu
from saev.ops.ordering import order


class Decode(torch.autograd.Function):
    """f @ w_dec for f with `values` at (row, latent), and its gradients."""

    @staticmethod
    def forward(ctx, values, w_dec, offsets, latents):
        table = w_dec.to(product_dtype(w_dec))
        ctx.save_for_backward(values, table, offsets, latents)
        ctx.dtype = w_dec.dtype
        return weighted_sum(table, latents, offsets, values)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        values, table, offsets, latents = ctx.saved_tensors
        need_values, need_w_dec = ctx.needs_input_grad[:2]
        grad, d_w_dec = grad.to(table.dtype), None
        d_values = products(grad, table, latents, offsets).to(values.dtype) if need_values else None
        if need_w_dec:
            d_w_dec = transposed_sum(grad, transposed(latents, offsets, len(table)), values).to(ctx.dtype)
        return d_values, d_w_dec, None, None


class Encoder(torch.autograd.Function):
    """Forward: the values. Backward: that of (z - b_dec) @ w_enc + b_enc at their indices, rectified or not."""

    @staticmethod
    def forward(ctx, z, w_enc, b_enc, b_dec, offsets, latents, values, sparse, rectified):
        ctx.save_for_backward(z, w_enc, b_dec, offsets, latents, values if rectified else None)
        # Under autocast products are in the dtype of h, as in the dense encoder's backward.
        ctx.sparse, ctx.dtype = sparse, product_dtype(w_enc) if sparse else values.dtype
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        z, w_enc, b_dec, offsets, latents, values = ctx.saved_tensors
        need_z, need_w, _, need_b_dec = ctx.needs_input_grad[:4]
        d_h = (grad if values is None else torch.where(values > 0, grad, 0)).to(ctx.dtype)
        centred, d_z, d_w = (z - b_dec).to(ctx.dtype), None, None
        if ctx.sparse:
            if need_w or latents.device.type != "cpu":
                by_latent = transposed(latents, offsets, w_enc.shape[1])
                d_b_enc = _per_latent(d_h, latents, by_latent)
                d_w = transposed_sum(centred, by_latent, d_h).T if need_w else None
            else:  # of a frozen encoder: without sorting
                d_b_enc = d_h.new_zeros(w_enc.shape[1]).index_add_(0, latents, d_h)
            d_z = weighted_sum(w_enc.T.to(ctx.dtype).contiguous(), latents, offsets, d_h) if need_z else None
        else:
            dense = d_h.new_zeros(len(z), w_enc.shape[1])
            dense[rows_of(offsets, len(latents)), latents] = d_h
            d_b_enc = dense.sum(0)
            d_w = (dense.T @ centred).T if need_w else None
            d_z = dense @ w_enc.T.to(ctx.dtype) if need_z else None
        # Minus the sum over tokens of d_z, as a matrix-vector product: d_z takes a matrix product.
        d_b_dec = -(w_enc @ d_b_enc.to(w_enc.dtype)) if need_b_dec else None
        return d_z, d_w, d_b_enc, d_b_dec, None, None, None, None, None


def weighted_sum(
    table: Float[Tensor, "n width"],
    indices: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_and_1"],
    weights: Float[Tensor, " nnz"],
    many: bool = False,
) -> Float[Tensor, "rows width"]:
    """Per row, the weighted sum of the table's rows at its indices: a product with a CSR matrix, without a graph.

    `many`: rows may have thousands of indices.
    """
    if gpu.kernels(table.device):
        from saev.ops import gpu_sums

        return gpu_sums.weighted_sum(table, indices, offsets, weights, many)
    weights = weights.to(table.dtype)
    return embedding_bag(indices, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


class Transposed(NamedTuple):
    """Codes by latent, as CSR with the latents as rows: latent j is active in `rows[ends[j]:ends[j + 1]]`."""

    order: Int[Tensor, " nnz"]  # the indices of the pairs among the codes
    rows: Int[Tensor, " nnz"]
    ends: Int[Tensor, " d_sae_and_1"]


def transposed(latents: Int[Tensor, " nnz"], offsets: Int[Tensor, " rows_and_1"], d_sae: int) -> Transposed:
    """The same pairs sorted by latent."""
    by_latent = order(latents, d_sae)
    if latents.device.type == "cpu":
        ends = torch.from_numpy(np.bincount(latents.numpy() + 1, minlength=d_sae + 1).cumsum())
    else:  # bincount would synchronise
        ends = torch.searchsorted(latents[by_latent], torch.arange(d_sae + 1, device=latents.device))
    return Transposed(by_latent, rows_of(offsets, len(latents))[by_latent], ends)


def transposed_sum(
    table: Float[Tensor, "rows width"], by_latent: Transposed, weights: Float[Tensor, " nnz"]
) -> Float[Tensor, "d_sae width"]:
    """Per latent, the weighted sum of the table's rows in which it is active: a product with the transposed CSR matrix."""
    return weighted_sum(table, by_latent.rows, by_latent.ends, weights[by_latent.order], many=True)


def products(
    left: Float[Tensor, "rows width"],
    right: Float[Tensor, "n width"],
    indices: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_and_1"],
) -> Float[Tensor, " nnz"]:
    """Per pair (row, index), the dot product of left[row] and right[index]: an entry of `left @ right.T`."""
    if gpu.kernels(right.device):
        from saev.ops import gpu_sums

        return gpu_sums.products(left, right, indices, offsets)
    rows = rows_of(offsets, len(indices))
    summed, no_padding = 0, -1
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left.to(right.dtype), right, indices, offsets[:-1], rows, summed, no_padding
    )


def product_dtype(table: Float[Tensor, "n width"]) -> torch.dtype:
    """The autocast dtype where our kernels read the table in it (they accumulate in float32); else the table's dtype."""
    kind = table.device.type
    low = gpu.kernels(table.device) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if low else table.dtype


def rows_of(offsets: Int[Tensor, " rows_and_1"], n: int) -> Int[Tensor, " nnz"]:
    """The row of each of the n pairs."""
    return torch.repeat_interleave(offsets.diff(), output_size=n)


def _per_latent(
    weights: Float[Tensor, " nnz"], latents: Int[Tensor, " nnz"], by_latent: Transposed
) -> Float[Tensor, " d_sae"]:
    if latents.device.type == "cpu":
        return weights.new_zeros(len(by_latent.ends) - 1).index_add_(0, latents, weights)
    # On a GPU index_add_ adds in random order, so that runs would differ.
    one, always = weights.new_ones(1, 1), torch.zeros_like(by_latent.order)
    return weighted_sum(one, always, by_latent.ends, weights[by_latent.order], many=True).squeeze(1)
