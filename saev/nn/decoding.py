"""What is made of codes, dense or sparse, behind one name each."""

from collections.abc import Callable, Sequence

from jaxtyping import Float, Int
from torch import Tensor

from saev.nn.sparsifiers import Codes
from saev.ops import prefixes, sparse
from saev.ops.sparse import SparseCodes


def decode(f: Codes, w_dec: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, "batch d_model"]:
    """f @ w_dec."""
    return sparse.decode_sparse(f, w_dec) if isinstance(f, SparseCodes) else f @ w_dec


def prefix_errors(
    f: Codes, w_dec: Float[Tensor, "d_sae d_model"], target: Float[Tensor, "batch d_model"], ends: Sequence[int]
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_model"]]:
    """(mean over prefixes of the squared error of f[:, :end] @ w_dec[:end], mean over batch and dimensions; residual of the last)."""
    of_pairs = isinstance(f, SparseCodes)
    return (
        prefixes.prefix_errors(f, w_dec, target, ends)
        if of_pairs
        else prefixes.dense_prefix_errors(f, w_dec, target, ends)
    )


def per_token(codes: Codes, function: Callable[[Tensor], Tensor] = lambda values: values) -> Float[Tensor, ""]:
    """The mean over tokens of the sum over latents of a function of the codes, one that is 0 where there is no pair."""
    if isinstance(codes, SparseCodes):
        return function(codes.values).sum() / codes.n_rows
    return function(codes).sum(1).mean()


def firings(f: Codes, d_sae: int) -> Int[Tensor, " d_sae"]:
    """On how many tokens of the batch each latent is active."""
    return f.firings(d_sae) if isinstance(f, SparseCodes) else (f != 0).sum(0)
