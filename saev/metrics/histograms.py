"""Histograms of how often latents fire and how strongly, on fixed bins of log10: counts are additive.

The first and the last bin are open: they also count values beyond their outer edge.
"""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from saev.metrics.functional import frequency_compute

# Exponents of ten, four bins a decade.
FREQUENCY_EDGES = tuple(-7 + i / 4 for i in range(29))  # one token in ten million ... every token
VALUE_EDGES = tuple(-4 + i / 4 for i in range(33))  # codes of a dictionary with unit atoms are about 1


def log10_histogram(values: Float[Tensor, "*m n"], exponents: tuple[float, ...]) -> Int[Tensor, "*m bins"]:
    """Per row, how many values lie in each bin [10^e_i, 10^e_(i+1)); zeros, negative values and NaN are not counted.

    >>> log10_histogram(torch.tensor([0.0, 0.001, 0.05, 0.5, 20.0]), (-2, -1, 0)).tolist()
    [2, 2]
    """
    inner = torch.tensor([10.0**e for e in exponents[1:-1]], dtype=torch.float64, device=values.device)
    bins = len(exponents) - 1
    rows = values.reshape(-1, values.shape[-1])
    bin_index = torch.bucketize(rows.double(), inner, right=True)
    flat = bin_index + bins * torch.arange(len(rows), device=values.device)[:, None]
    counts = torch.zeros(len(rows) * bins, dtype=torch.int64, device=values.device)
    return counts.index_add_(0, flat.flatten(), (rows > 0).flatten().long()).view(*values.shape[:-1], bins)


def frequency_histogram(firings: Int[Tensor, "*m d_sae"], n: Int[Tensor, "*#m"]) -> Int[Tensor, "*m bins"]:
    """Number of latents by log10 of the fraction of tokens on which they fire, on FREQUENCY_EDGES; the dead are not counted.

    >>> edges = dict(zip(FREQUENCY_EDGES, frequency_histogram(torch.tensor([0, 10, 10, 100]), torch.tensor(100)).tolist()))
    >>> edges[-1.0], edges[-0.25], sum(edges.values())
    (2, 1, 3)
    """
    return log10_histogram(frequency_compute(firings, n), FREQUENCY_EDGES)


class ValueHistogram(Metric):
    """Number of codes (tokens x latents) by log10 |f| on VALUE_EDGES, over all latents of a dictionary; zeros left out."""

    full_state_update = False
    counts: Int[Tensor, " bins"]

    def __init__(self):
        super().__init__()
        self.add_state("counts", torch.zeros(len(VALUE_EDGES) - 1, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, codes: Float[Tensor, "batch d_sae"]) -> None:
        # this index synchronises, but leaves a hundredth of the codes
        self.counts = self.counts + log10_histogram(codes[codes != 0].abs(), VALUE_EDGES)

    def compute(self) -> Int[Tensor, " bins"]:
        return self.counts


def centres(exponents: tuple[float, ...]) -> list[float]:
    """The middle of each bin, as an exponent of ten.

    >>> centres((-2, -1, 0))
    [-1.5, -0.5]
    """
    return [(low + high) / 2 for low, high in pairwise(exponents)]
