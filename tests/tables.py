"""Label tables of dense codes, made by plain torch.unique."""

import numpy as np
import torch

from saev.probing.counts.table import LabelTable, ordered


def table(x, bits=10):
    """What one pass over dense codes x [N, L] would keep, without classes."""
    latent, token = x.T.nonzero(as_tuple=True)
    value = x[token, latent]
    pairs = torch.stack([latent, ordered(value) >> (23 - bits)], 1)
    groups, of, count = pairs.unique(dim=0, return_inverse=True, return_counts=True)
    zeros, none = torch.zeros(len(groups), dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    return LabelTable(
        n_tokens=len(x), positives=none, n_latents=x.shape[1], latent=groups[:, 0], key=groups[:, 1], count=count,
        total=zeros.index_add(0, of, value), squares=zeros.index_add(0, of, value**2), mantissa_bits=bits,
        group=none, label=none, joint=none, p1=torch.zeros(x.shape[1], 0, dtype=torch.float64),
    )  # fmt: skip


def expected_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Average precision, the mean over all orders of ties: for each rank of a tie group, the chance of a positive there times the
    precision to expect then."""
    total, before, hits = 0.0, 0, 0
    for score in np.unique(scores)[::-1]:
        tied = positive[scores == score]
        g, p = len(tied), int(tied.sum())
        for j in range(g):
            total += p / g * (hits + 1 + (j * (p - 1) / (g - 1) if g > 1 else 0)) / (before + j + 1)
        before, hits = before + g, hits + p
    return total / hits
