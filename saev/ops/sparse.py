"""Codes as rows of (latent, value) pairs, and the linear maps around them computed from those pairs alone.

    z ──dense GEMM, no graph──▶ h ──select──▶ pairs ──with_encoder_gradient──▶ codes ──decode_sparse──▶ z_hat

With k of d_sae latents active, decoding and the gradients of both weights need nnz * d_model products instead of
batch * d_sae * d_model. Each map has a dense form that defines it; `saev.ops.paths` chooses between the two.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.ops import selection, sparse_gradients
from saev.ops.paths import Path, current_path, takes_sparse
from saev.ops.topk import batchtopk, by_numpy, topk


class SparseCodes(NamedTuple):
    """Codes in CSR: row r has `latents[offsets[r]:offsets[r + 1]]`, each once, with those `values`; a code of 0 is padding."""

    offsets: Int[Tensor, " rows_and_1"]
    latents: Int[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]

    @property
    def n_rows(self) -> int:
        """The number of rows, empty ones included."""
        return len(self.offsets) - 1

    def rows(self) -> Int[Tensor, " nnz"]:
        """The row of each pair."""
        return sparse_gradients.rows_of(self.offsets, len(self.latents))

    def prefer_sparse(self, d_sae: int, path: Path = "auto") -> bool:
        """Whether maps of these codes take the sparse path (`saev.ops.paths`)."""
        return takes_sparse(self.latents.device.type, len(self.latents), self.n_rows, d_sae, path)

    def dense(self, d_sae: int) -> Float[Tensor, "rows d_sae"]:
        """The same codes as a matrix."""
        out = self.values.new_zeros(self.n_rows, d_sae)
        return out.index_put((self.rows(), self.latents), self.values)

    def matrix_for(self, weights: Float[Tensor, "d_sae width"]) -> Float[Tensor, "rows d_sae"]:
        """`dense` in the dtype of the weights, except under autocast, which casts both."""
        f, device = self.dense(len(weights)), weights.device.type
        casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        return f if casts else f.to(weights.dtype)

    def firings(self, d_sae: int) -> Int[Tensor, " d_sae"]:
        """Per latent, the number of rows on which its code is not 0."""
        counts = torch.zeros(d_sae, dtype=torch.int64, device=self.latents.device)
        return counts.index_add_(0, self.latents, (self.values != 0).long())


def topk_select(h: Float[Tensor, "batch d_sae"], k: int) -> SparseCodes:
    """Per token the k largest of relu(h), without a graph: `batch * k` pairs."""
    values, indices = topk(h, k)
    offsets = torch.arange(0, len(indices) + 1, k, device=h.device)
    return SparseCodes(offsets, indices % h.shape[1], values.relu_())


def topk_among(h: Float[Tensor, "batch n"], k: int, latents: Int[Tensor, " n"]) -> SparseCodes:
    """Per token the k largest of relu(h), whose columns are these latents, without a graph; on a CPU.

    With at most k latents there is no padding: only positive entries become pairs.
    """
    if h.shape[1] > k:
        codes = topk_select(h, k)
    else:
        indices, values = selection.beyond(h.numpy(), 0)
        codes = _csr(torch.from_numpy(indices), torch.from_numpy(values), *h.shape)
    return codes._replace(latents=latents[codes.latents])


def batchtopk_select(h: Float[Tensor, "batch d_sae"], k: int) -> SparseCodes:
    """The `batch * k` largest of relu(h) over the batch, without a graph: at most `batch * k` pairs."""
    values, indices = batchtopk(h, k)
    if h.device.type != "cpu":
        indices, order = indices.sort()
        values = values[order]
    return _csr(indices, values.relu(), *h.shape)


def select_beyond(h: Float[Tensor, "batch d_sae"], bound: float | Float[Tensor, " d_sae"] = 0.0) -> SparseCodes | None:
    """All entries of h above the bound, a scalar or one per latent, without a graph.

    None where these are too many for pairs to be faster than a matrix, and on a GPU, where counting them would synchronise.
    """
    h = h.detach()
    if current_path() == "dense" or not by_numpy(h):
        return None
    beyond = bound.detach().to(h).numpy() if isinstance(bound, Tensor) else bound
    if not selection.fraction_beyond(h.numpy(), beyond) < 1 / 8:
        return None
    indices, values = selection.beyond(h.numpy(), beyond)
    return _csr(torch.from_numpy(indices), torch.from_numpy(values), *h.shape)


def _csr(indices: Int[Tensor, " nnz"], values: Float[Tensor, " nnz"], batch: int, d_sae: int) -> SparseCodes:
    offsets = torch.searchsorted(indices, torch.arange(batch + 1, device=indices.device) * d_sae)
    return SparseCodes(offsets, indices % d_sae, values)


def decode_sparse(
    codes: SparseCodes, w_dec: Float[Tensor, "d_sae d_model"], path: Path = "auto"
) -> Float[Tensor, "rows d_model"]:
    """Per row, the sum over its latents of value times atom: `f @ w_dec`, with gradients to the values and `w_dec`.

    >>> codes = topk_select(torch.tensor([[1.0, 3.0, 2.0], [-1.0, -2.0, 0.5]]), k=1)
    >>> decode_sparse(codes, torch.eye(3))
    tensor([[0.0000, 3.0000, 0.0000],
            [0.0000, 0.0000, 0.5000]])
    """
    if not codes.prefer_sparse(len(w_dec), path):
        return codes.matrix_for(w_dec) @ w_dec
    return sparse_gradients.Decode.apply(codes.values, w_dec, codes.offsets, codes.latents)


def with_encoder_gradient(
    codes: SparseCodes,
    z: Float[Tensor, "batch d_model"],
    w_enc: Float[Tensor, "d_model d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    b_dec: Float[Tensor, " d_model"],
    path: Path = "auto",
    rectified: bool = True,
) -> SparseCodes:
    """The same codes, their values now differentiable as `relu((z - b_dec) @ w_enc + b_enc)` at the selected indices.

    `codes` must have been selected from those pre-activations, or from a masked copy. Values of 0 get no gradient, as under
    relu; without `rectified` the values are the pre-activations themselves and all get a gradient.
    Gradients reach those of the four inputs that require them; h need not be kept. The gradient of w_enc is stored
    column by column, the layout of the encoder, so that it needs no copy.
    """
    sparse = codes.prefer_sparse(w_enc.shape[1], path)
    return codes._replace(values=sparse_gradients.Encoder.apply(z, w_enc, b_enc, b_dec, *codes, sparse, rectified))
