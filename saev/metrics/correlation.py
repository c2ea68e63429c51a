"""Correlation between the latents of a dictionary, from streamed second moments of their codes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from saev.ops.gram import add_gram

MOST = 8192  # latents whose second moments are kept: 512 MiB


def mean_absolute_correlation(
    n: Int[Tensor, ""], total: Float[Tensor, " m"], gram: Float[Tensor, "m m"], block: int = 1024
) -> Float[Tensor, ""]:
    """Mean over pairs of different latents of |Pearson correlation| of their codes over the tokens counted.

    `cov_ij = gram_ij / n - mean_i mean_j` with `total = sum f`, `gram = sum f f^T`, both float64. Latents whose code never
    changes (the dead ones) have no correlation and are left out; NaN where fewer than two are left. Blocks of rows: no
    second matrix of the size of `gram` is made.

    >>> f = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [2.0, 4.0, 0.0]]).double()
    >>> round(float(mean_absolute_correlation(torch.tensor(3), f.sum(0), f.T @ f)), 6)
    1.0
    """
    mean = total / n
    second = gram.diagonal() / n
    variance = second - mean.square()
    varies = variance > 1e-12 * second  # a constant has a variance by rounding
    scale = torch.where(varies, variance, torch.inf).rsqrt()
    summed = gram.new_zeros(())
    for start in range(0, len(mean), block):
        rows = slice(start, start + block)
        cov = (gram[rows] / n).addcmul_(mean[rows, None], mean[None], value=-1)
        cor = cov.mul_(scale[rows, None]).mul_(scale[None]).abs_().clamp_(max=1)
        summed += cor.sum() - cor.diagonal(start).sum()
    active = varies.sum()
    return summed / (active * (active - 1))


class CodeCorrelation(Metric):
    """Mean absolute correlation of one dictionary's codes; above `most` latents of a seeded sample of them.

    State: count, sums [m] and second moments [m, m] of m = min(d_sae, most) latents, float64 and additive.
    """

    full_state_update = False
    n: Int[Tensor, ""]
    total: Float[Tensor, " m"]
    gram: Float[Tensor, "m m"]
    chosen: Int[Tensor, " m"]

    def __init__(self, d_sae: int, most: int = MOST, seed: int = 0):
        super().__init__()
        m = min(d_sae, most)
        chosen = torch.randperm(d_sae, generator=torch.Generator().manual_seed(seed))[:m].sort().values
        self.register_buffer("chosen", chosen, persistent=False)
        self.add_state("n", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(m, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("gram", torch.zeros(m, m, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, codes: Float[Tensor, "batch d_sae"]) -> None:
        f = codes if len(self.chosen) == codes.shape[1] else codes[:, self.chosen]
        self.n = self.n + len(f)
        self.total = self.total + f.sum(0, dtype=torch.float64)
        add_gram(self.gram, f)  # in place: up to half a gigabyte, and compute returns no view of it

    def compute(self) -> Float[Tensor, ""]:
        return mean_absolute_correlation(self.n, self.total, self.gram)
