"""Decoding and the encoder's values of sparse codes, with gradients from the active pairs alone.

Both weights' gradients are sums over the rows in which a latent is active: products with the transposed pairs (CSC).
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from saev.ops.ordering import order


class Decode(torch.autograd.Function):
    """f @ w_dec of the values at (row, latent), and its gradients."""

    @staticmethod
    def forward(ctx, values, w_dec, offsets, latents):
        ctx.save_for_backward(values, w_dec, offsets, latents)
        return weighted_sum(w_dec, latents, offsets, values)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        values, w_dec, offsets, latents = ctx.saved_tensors
        need_values, need_w_dec = ctx.needs_input_grad[:2]
        d_values = products(grad, w_dec, latents, offsets).to(values.dtype) if need_values else None
        d_w_dec = transposed_sum(grad, latents, offsets, values, len(w_dec)) if need_w_dec else None
        return d_values, d_w_dec, None, None


class Encoder(torch.autograd.Function):
    """Forward: the values as they are. Backward: relu((z - b_dec) @ w_enc + b_enc)'s at their places, dense or sparse."""

    @staticmethod
    def forward(ctx, z, w_enc, b_enc, b_dec, offsets, latents, values, sparse):
        ctx.save_for_backward(z, w_enc, b_dec, offsets, latents, values)
        ctx.sparse = sparse
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        z, w_enc, b_dec, offsets, latents, values = ctx.saved_tensors
        need_z, need_w, _, need_b_dec = ctx.needs_input_grad[:4]
        # Under autocast the dense products are made in the precision of h, as the encoder's own backward would.
        dtype = w_enc.dtype if ctx.sparse else values.dtype
        d_h = torch.where(values > 0, grad, 0).to(dtype)
        centred, weights = (z - b_dec).to(dtype), w_enc.to(dtype)
        d_z = d_w = None
        if ctx.sparse:
            d_b_enc = _per_latent(d_h, latents, offsets, w_enc.shape[1])
            d_w = transposed_sum(centred, latents, offsets, d_h, w_enc.shape[1]).T if need_w else None
            d_z = weighted_sum(weights.T.contiguous(), latents, offsets, d_h) if need_z else None
        else:
            dense = d_h.new_zeros(len(z), w_enc.shape[1])
            dense[rows_of(offsets, len(latents)), latents] = d_h
            d_b_enc = dense.sum(0)
            d_w = (dense.T @ centred).T if need_w else None
            d_z = dense @ weights.T if need_z else None
        # Minus the sum over tokens of d_z: one matrix-vector product, where d_z costs a product of matrices.
        d_b_dec = -(w_enc @ d_b_enc.to(w_enc.dtype)) if need_b_dec else None
        return d_z, d_w, d_b_enc, d_b_dec, None, None, None, None


def weighted_sum(
    table: Float[Tensor, "n width"],
    places: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_and_1"],
    weights: Float[Tensor, " nnz"],
) -> Float[Tensor, "rows width"]:
    """Per row, the weighted sum of the table's rows at its places: a product with a CSR matrix, without a graph."""
    weights = weights.to(table.dtype)
    return embedding_bag(places, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


def transposed_sum(
    table: Float[Tensor, "rows width"],
    latents: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_and_1"],
    weights: Float[Tensor, " nnz"],
    d_sae: int,
) -> Float[Tensor, "d_sae width"]:
    """Per latent, the weighted sum of the table's rows in which it is: a product with the transposed CSR matrix."""
    by_latent = order(latents, d_sae)
    if latents.device.type == "cpu":
        ends = torch.from_numpy(np.bincount(latents.numpy() + 1, minlength=d_sae + 1).cumsum())
    else:  # without counting, which would wait for the largest
        ends = torch.searchsorted(latents[by_latent], torch.arange(d_sae + 1, device=latents.device))
    return weighted_sum(table, rows_of(offsets, len(latents))[by_latent], ends, weights[by_latent])


def products(
    left: Float[Tensor, "rows width"],
    right: Float[Tensor, "n width"],
    places: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_and_1"],
) -> Float[Tensor, " nnz"]:
    """Of each pair (row, place), the product of left's row and right's: those entries of `left @ right.T`."""
    rows = rows_of(offsets, len(places))
    summed, no_padding = 0, -1
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left.to(right.dtype), right, places, offsets[:-1], rows, summed, no_padding
    )


def rows_of(offsets: Int[Tensor, " rows_and_1"], n: int) -> Int[Tensor, " nnz"]:
    """The row of each of the n pairs."""
    return torch.repeat_interleave(offsets.diff(), output_size=n)


def _per_latent(
    weights: Float[Tensor, " nnz"], latents: Int[Tensor, " nnz"], offsets: Int[Tensor, " rows_and_1"], d_sae: int
) -> Float[Tensor, " d_sae"]:
    if latents.device.type == "cpu":
        return weights.new_zeros(d_sae).index_add_(0, latents, weights)
    # On a GPU that would add in any order, and no run would be the same twice.
    return transposed_sum(weights.new_ones(len(offsets) - 1, 1), latents, offsets, weights, d_sae).squeeze(1)
