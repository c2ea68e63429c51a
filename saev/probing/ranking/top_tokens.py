"""Precision and purity at k: the classes of the k tokens with the largest codes of each latent."""

import torch
from jaxtyping import Float64
from torch import Tensor

from saev.probing.counts import segments
from saev.probing.counts.table import LabelTable

K = 16


def precision_at(table: LabelTable, k: int = K) -> Float64[Tensor, "latents classes"]:
    """The fraction of each class among the k tokens with the largest codes, expected over all orders of ties.

    NaN for latents with fewer than k positive codes. ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"k={k} of precision@k: must be at least 1.")
    positive = table.edges >= 0
    count = torch.where(positive, table.count, 0)
    up_to = count.flip(0).cumsum(0).flip(0)  # tokens of this group, higher ones, and those of further latents
    fired = segments.scatter_sum(count, table.latent, table.n_latents)
    later = fired.flip(0).cumsum(0).flip(0) - fired  # positive codes of further latents
    above = up_to - later[table.latent] - count
    taken = (k - above).clamp(min=0).minimum(count)
    fraction = taken.double() / table.count / k
    pair = table.latent[table.group] * table.n_classes + table.label
    precision = segments.scatter_sum(table.joint * fraction[table.group], pair, table.n_latents * table.n_classes)
    return torch.where((fired >= k)[:, None], precision.view(table.n_latents, table.n_classes), torch.nan)


def purity_at(table: LabelTable, k: int = K) -> Float64[Tensor, " latents"]:
    """The fraction of the most frequent class among these k tokens; NaN as in `precision_at`."""
    return precision_at(table, k).amax(1)
