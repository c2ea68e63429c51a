"""Codes as rows of (latent, value) pairs, and the linear maps around them computed from those pairs alone.

    z ──dense GEMM, no graph──▶ h ──topk_select──▶ pairs ──with_encoder_gradient──▶ codes ──decode_sparse──▶ z_hat

With k of d_sae latents active, decoding and the gradients of both weights need nnz * d_model products instead of
batch * d_sae * d_model. Each map has a dense reference that defines it; `prefer_sparse` chooses between the two.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from saev.ops.topk import batchtopk_indices, topk_indices

Path = Literal["auto", "sparse", "dense"]


class SparseCodes(NamedTuple):
    """Codes in CSR: row r has `latents[offsets[r]:offsets[r + 1]]`, each once, with those `values`; value 0 is padding."""

    offsets: Int[Tensor, " rows_and_1"]
    latents: Int[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]

    def rows(self) -> Int[Tensor, " nnz"]:
        """The row of each pair."""
        places = torch.arange(len(self.latents), device=self.latents.device)
        return torch.searchsorted(self.offsets, places, right=True) - 1

    def dense(self, d_sae: int) -> Float[Tensor, "rows d_sae"]:
        """The same codes as a matrix."""
        out = self.values.new_zeros(len(self.offsets) - 1, d_sae)
        return out.index_put((self.rows(), self.latents), self.values)

    def firings(self, d_sae: int) -> Int[Tensor, " d_sae"]:
        """Per latent, the number of rows on which its code is not 0."""
        counts = torch.zeros(d_sae, dtype=torch.int64, device=self.latents.device)
        return counts.index_add_(0, self.latents, (self.values != 0).long())


def topk_select(h: Float[Tensor, "batch d_sae"], k: int) -> SparseCodes:
    """Per token the k largest of relu(h), without a graph: `batch * k` pairs."""
    latents = topk_indices(h, k)
    offsets = torch.arange(0, latents.numel() + 1, k, device=h.device)
    return SparseCodes(offsets, latents.flatten(), h.detach().gather(1, latents).relu().flatten())


def batchtopk_select(h: Float[Tensor, "batch d_sae"], k: int) -> SparseCodes:
    """The `batch * k` largest of relu(h) over the batch, without a graph: at most `batch * k` pairs."""
    batch, d_sae = h.shape
    places = batchtopk_indices(h, k).sort().values
    offsets = torch.searchsorted(places, torch.arange(batch + 1, device=h.device) * d_sae)
    return SparseCodes(offsets, places % d_sae, h.detach().flatten()[places].relu())


def prefer_sparse(codes: SparseCodes, d_sae: int) -> bool:
    """Whether the sparse maps are the faster ones here: a fixed rule, so that a run's numbers never depend on timing.

    On a CPU a training step breaks even at one active latent in eight (and is 3 times faster at one in a hundred). On a
    GPU the dense products are chosen: sparse ones are estimated to pay above 184,000 latents only.
    """
    return codes.latents.device.type == "cpu" and len(codes.latents) * 8 <= (len(codes.offsets) - 1) * d_sae


def _takes_sparse(codes: SparseCodes, d_sae: int, path: Path) -> bool:
    sparse = path == "sparse" or (path == "auto" and prefer_sparse(codes, d_sae))
    _log_once(codes.latents.device.type, "sparse" if sparse else "dense", path)
    return sparse


@functools.cache
def _log_once(device: str, taken: str, asked: Path) -> None:
    logging.getLogger(__name__).info("codes on %s: %s products (path=%s)", device, taken, asked)


def decode_sparse(
    codes: SparseCodes, w_dec: Float[Tensor, "d_sae d_model"], path: Path = "auto"
) -> Float[Tensor, "rows d_model"]:
    """Per row, the sum over its latents of value times atom: `f @ w_dec`, with gradients to the values and `w_dec`.

    >>> codes = topk_select(torch.tensor([[1.0, 3.0, 2.0], [-1.0, -2.0, 0.5]]), k=1)
    >>> decode_sparse(codes, torch.eye(3))
    tensor([[0.0000, 3.0000, 0.0000],
            [0.0000, 0.0000, 0.5000]])
    """
    if not _takes_sparse(codes, len(w_dec), path):
        return codes.dense(len(w_dec)).to(w_dec.dtype) @ w_dec
    return _weighted_sum(w_dec, codes.latents, codes.offsets, codes.values)


def decode_prefixes(
    codes: SparseCodes, w_dec: Float[Tensor, "d_sae d_model"], ends: Sequence[int], path: Path = "auto"
) -> Float[Tensor, "rows prefixes d_model"]:
    """For each prefix of the dictionary, the decoding by its latents alone: `f[:, :ends[p]] @ w_dec[:ends[p]]`.

    `ends` ascends; latents at or beyond the last end are left out. Each group of latents between two ends is decoded
    once, and prefixes are running sums over the groups.
    """
    if not _takes_sparse(codes, len(w_dec), path):
        f = codes.dense(len(w_dec)).to(w_dec.dtype)
        groups = [f[:, start:end] @ w_dec[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        return torch.stack(groups, dim=1).cumsum(1)
    rows, prefixes, device = len(codes.offsets) - 1, len(ends), codes.latents.device
    group = torch.searchsorted(torch.tensor(ends, device=device), codes.latents, right=True)
    values = torch.where(group < prefixes, codes.values, 0)
    # Every (row, group) is a row of its own.
    key, order = (codes.rows() * prefixes + group.clamp(max=prefixes - 1)).sort(stable=True)
    offsets = torch.searchsorted(key, torch.arange(rows * prefixes + 1, device=device))
    decoded = _weighted_sum(w_dec, codes.latents[order], offsets, values[order])
    return decoded.view(rows, prefixes, -1).cumsum(1)


def with_encoder_gradient(
    codes: SparseCodes,
    z: Float[Tensor, "batch d_model"],
    w_enc: Float[Tensor, "d_model d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    b_dec: Float[Tensor, " d_model"],
    path: Path = "auto",
) -> SparseCodes:
    """The same codes, their values now differentiable as `relu((z - b_dec) @ w_enc + b_enc)` at the selected places.

    `codes` must have been selected from those pre-activations (or from a masked copy; places of value 0 get no
    gradient, as under relu). Gradients reach those of the four inputs that require them; h need not be kept.
    """
    sparse = _takes_sparse(codes, w_enc.shape[1], path)
    return codes._replace(values=_EncoderGradient.apply(z, w_enc, b_enc, b_dec, *codes, sparse))


class _EncoderGradient(torch.autograd.Function):
    """Forward: the values as they are. Backward: that of the encoder, dense or from the active pairs alone."""

    @staticmethod
    def forward(ctx, z, w_enc, b_enc, b_dec, offsets, latents, values, sparse):
        ctx.save_for_backward(z, w_enc, b_dec, offsets, latents, values)
        ctx.sparse = sparse
        return values.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        z, w_enc, b_dec, offsets, latents, values = ctx.saved_tensors
        need_z, need_w, _, need_b_dec = ctx.needs_input_grad[:4]
        # Under autocast the dense products are made in the precision of h, as the encoder's own backward would.
        dtype = w_enc.dtype if ctx.sparse else values.dtype
        d_h = SparseCodes(offsets, latents, torch.where(values > 0, grad, 0).to(dtype))
        centred = (z - b_dec).to(dtype) if need_w else None
        back = _backward_sparse if ctx.sparse else _backward_dense
        d_z, d_w, d_b_enc = back(d_h, centred, w_enc.to(dtype), need_z)
        # Minus the sum over tokens of d_z: one matrix-vector product, where d_z costs a product of matrices.
        d_b_dec = -(w_enc @ d_b_enc.to(w_enc.dtype)) if need_b_dec else None
        return d_z, d_w, d_b_enc, d_b_dec, None, None, None, None


def _backward_dense(codes: SparseCodes, centred: Tensor | None, w_enc: Tensor, need_z: bool):
    d_h = codes.dense(w_enc.shape[1])
    d_w = None if centred is None else centred.T @ d_h
    return d_h @ w_enc.T if need_z else None, d_w, d_h.sum(0)


def _backward_sparse(d_h: SparseCodes, centred: Tensor | None, w_enc: Tensor, need_z: bool):
    # The transposed pairs (CSC): grouped by latent, in the order of the rows within each.
    by_latent, order = d_h.latents.sort(stable=True)
    ends = torch.searchsorted(by_latent, torch.arange(w_enc.shape[1] + 1, device=w_enc.device))
    rows, weights = d_h.rows()[order], d_h.values[order]
    d_b_enc = _weighted_sum(weights.new_ones(len(d_h.offsets) - 1, 1), rows, ends, weights).squeeze(1)
    d_w = None if centred is None else _weighted_sum(centred, rows, ends, weights).T
    d_z = _weighted_sum(w_enc.T.contiguous(), d_h.latents, d_h.offsets, d_h.values) if need_z else None
    return d_z, d_w, d_b_enc


def _weighted_sum(
    table: Float[Tensor, "n width"],
    places: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_and_1"],
    weights: Float[Tensor, " nnz"],
) -> Float[Tensor, "rows width"]:
    """Per row, the weighted sum of the table's rows at its places: a product with a CSR matrix, gradients included."""
    weights = weights.to(table.dtype)
    return embedding_bag(places, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
