"""The Gram matrix of codes over tokens, f^T f: from the active pairs of each token where codes are sparse.

A token with n active latents adds to n^2 entries; the dense product takes d_sae^2. Both give float64.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

Path = Literal["auto", "sparse", "dense"]
# On 2 cores, 4096 tokens of 3072 latents: 32 active 0.8 s instead of 7 s, 128 active 3 s, 400 active as long as dense.
PRODUCTS_PER_PAIR = 64


def add_gram(gram: Float[Tensor, "m m"], codes: Float[Tensor, "batch m"], path: Path = "auto") -> Float[Tensor, "m m"]:
    """Add the sum over tokens of `f f^T` to `gram` (float64) in place; returns `gram`.

    >>> add_gram(torch.zeros(2, 2).double(), torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
    tensor([[ 1.,  2.],
            [ 2., 13.]], dtype=torch.float64)
    """
    if path == "auto":
        path = "sparse" if _prefer_sparse(codes) else "dense"
    if path == "dense":
        f = codes.double()
        return gram.addmm_(f.T, f)
    _add_pairs(gram, codes)
    return gram


def _prefer_sparse(codes: Float[Tensor, "batch m"]) -> bool:
    if codes.device.type != "cpu":
        return False
    pairs = int((codes != 0).sum(1).square().sum())
    return pairs * PRODUCTS_PER_PAIR <= codes.shape[0] * codes.shape[1] ** 2


def _add_pairs(gram: Tensor, codes: Float[Tensor, "batch m"]) -> None:
    from scipy.sparse import csr_matrix  # several times faster than torch's sparse product and its index_add

    f = csr_matrix(codes.detach().numpy()).astype("float64")
    product = (f.T.tocsr() @ f).tocoo()  # each pair of latents once
    gram.numpy()[product.row, product.col] += product.data
