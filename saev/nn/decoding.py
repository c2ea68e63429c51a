"""Functions of codes, dense or sparse, and the reconstruction error."""

from collections.abc import Callable, Sequence

from jaxtyping import Float, Int
from torch import Tensor

from saev.nn.sparsifiers.base import Codes
from saev.ops import prefixes, sparse
from saev.ops.sparse import SparseCodes


def decode(f: Codes, w_dec: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, "batch d_model"]:
    """f @ w_dec."""
    return sparse.decode_sparse(f, w_dec) if isinstance(f, SparseCodes) else f @ w_dec


def reconstruction_error(
    z: Float[Tensor, "batch d_model"],
    f: Codes,
    w_dec: Float[Tensor, "d_sae d_model"],
    b_dec: Float[Tensor, " d_model"],
    ends: Sequence[int],
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_model"]]:
    """(mean over prefixes of the error of f[:, :end] @ w_dec[:end] + b_dec, residual z - z_hat of the whole dictionary).

    The error is the squared error of z, mean over batch and dimensions: predicting the mean of z costs 1 for every backbone
    (docs/formats.md gives the factors to other scales). The last end is d_sae.
    """
    if len(ends) == 1:
        residual = z - (decode(f, w_dec) + b_dec)
        return residual.square().mean(), residual
    if isinstance(f, SparseCodes):
        return prefixes.prefix_errors(f, w_dec, z - b_dec, ends)
    return prefixes.dense_prefix_errors(f, w_dec, z - b_dec, ends)


def per_token(codes: Codes, function: Callable[[Tensor], Tensor] = lambda values: values) -> Float[Tensor, ""]:
    """The mean over tokens of the sum over latents of function(code), for a function that maps 0 to 0."""
    if isinstance(codes, SparseCodes):
        return function(codes.values).sum() / codes.n_rows
    return function(codes).sum(1).mean()


def firings(f: Codes, d_sae: int) -> Int[Tensor, " d_sae"]:
    """Per latent, the number of tokens of the batch on which it is active."""
    return f.firings(d_sae) if isinstance(f, SparseCodes) else (f != 0).sum(0)
