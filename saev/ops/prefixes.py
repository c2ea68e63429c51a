"""Nested prefixes of a dictionary decoded from sparse codes: each group of latents between two ends once, then running sums."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from saev.ops.ordering import order
from saev.ops.paths import Path
from saev.ops.sparse import SparseCodes
from saev.ops.sparse_gradients import product_dtype, products, transposed, transposed_sum, weighted_sum


def prefix_errors(
    codes: SparseCodes,
    w_dec: Float[Tensor, "d_sae d_model"],
    target: Float[Tensor, "rows d_model"],
    ends: Sequence[int],
    path: Path = "auto",
) -> tuple[Float[Tensor, ""], Float[Tensor, "rows d_model"]]:
    """(mean over rows, prefixes and dimensions of the squared error of f[:, :end] @ w_dec[:end]; the last prefix's residual).

    `ends` ascends to d_sae. Gradients of the mean reach the values, w_dec and the
    target; the residual carries none. Memory: one residual per prefix, [rows, prefixes, d_model].

    >>> codes = SparseCodes(torch.tensor([0, 2]), torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    >>> prefix_errors(codes, torch.eye(2), torch.tensor([[1.0, 1.0]]), [1, 2])
    (tensor(0.5000), tensor([[ 0., -1.]]))
    """
    assert ends[-1] == len(w_dec)
    if codes.prefer_sparse(len(w_dec), path):
        bags = _bags(codes, ends)
        return _Errors.apply(codes.values, w_dec, target, *bags, len(ends))
    return dense_prefix_errors(codes.matrix_for(w_dec), w_dec, target, ends)


def dense_prefix_errors(
    f: Float[Tensor, "rows d_sae"],
    w_dec: Float[Tensor, "d_sae d_model"],
    target: Float[Tensor, "rows d_model"],
    ends: Sequence[int],
) -> tuple[Float[Tensor, ""], Float[Tensor, "rows d_model"]]:
    """The same from dense codes."""
    residual, total = target, target.new_zeros(())
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        residual = residual - f[:, start:end] @ w_dec[start:end]
        total = total + residual.square().mean()
    return total / len(ends), residual.detach()


def _bags(codes: SparseCodes, ends: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """CSR with a row per (row, group): (offsets, latents in this order, the indices that sort the pairs)."""
    latents, prefixes = codes.latents, len(ends)
    if latents.device.type == "cpu":
        group = torch.searchsorted(torch.tensor(ends), latents, right=True)
    else:  # without copying the ends, which would synchronise a GPU
        group = sum(((latents >= end).long() for end in ends), torch.zeros_like(latents))
    key = codes.rows() * prefixes + group
    indices = order(key)  # fast: latents mostly ascend within a row
    n_bags = codes.n_rows * prefixes
    offsets = torch.searchsorted(key[indices], torch.arange(n_bags + 1, device=latents.device))
    return offsets, latents[indices], indices


class _Errors(torch.autograd.Function):
    """Residuals of all prefixes in one buffer; backward replaces them by their suffix sums over prefixes."""

    @staticmethod
    def forward(ctx, values, w_dec, target, offsets, latents, indices, n_prefixes):
        ordered, table = values.detach()[indices], w_dec.to(product_dtype(w_dec))
        residuals = weighted_sum(table, latents, offsets, ordered).neg_().view(len(target), n_prefixes, w_dec.shape[1])
        residuals[:, 0] += target
        for p in range(1, n_prefixes):
            residuals[:, p] += residuals[:, p - 1]
        ctx.save_for_backward(ordered, table, offsets, latents, indices)
        ctx.dtype = w_dec.dtype
        ctx.residuals = residuals
        ctx.set_materialize_grads(False)
        last = residuals[:, -1].clone()
        ctx.mark_non_differentiable(last)
        return torch.linalg.vecdot(residuals, residuals).mean() / w_dec.shape[1], last

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        ordered, table, offsets, latents, indices = ctx.saved_tensors
        if ctx.residuals is None:
            raise RuntimeError("the residuals are overwritten by their gradient: backward can run only once.")
        sums, ctx.residuals = ctx.residuals, None
        for p in range(sums.shape[1] - 2, -1, -1):
            sums[:, p] += sums[:, p + 1]
        scale = 2 * grad / sums.numel()
        bags = sums.view(-1, sums.shape[2]).to(table.dtype)
        d_values = d_w_dec = None
        if ctx.needs_input_grad[0]:
            d_values = torch.empty_like(ordered)
            d_values[indices] = (products(bags, table, latents, offsets) * -scale).to(ordered.dtype)
        if ctx.needs_input_grad[1]:
            by_latent = transposed(latents, offsets, len(table))
            d_w_dec = transposed_sum(bags, by_latent, ordered.to(ctx.dtype) * -scale).to(ctx.dtype)
        return d_values, d_w_dec, sums[:, 0] * scale, None, None, None, None
