"""Selection of pre-activations: the k largest per token (TopK) or the batch * k largest of the batch (BatchTopK).

A code is relu(h) at a selected index and 0 elsewhere, so entries that are not positive do not matter. Ties: never more
than the budget is kept; which of equal values are kept is a function of the input, not documented.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.ops import collective, gpu, selection

_SAMPLE = 32768  # pre-activations from which the batch's threshold is estimated
_SPARE = 1.25  # factor by which a sample or shard selects more values than its fraction of the budget

# Number of threads up to which NumPy on one thread is faster than torch.topk on all.
_FEW = 4


class Selected(NamedTuple):
    """Selected pre-activations and their flat indices (token * d_sae + latent), ascending where NumPy selected them."""

    values: Float[Tensor, " kept"]
    indices: Int[Tensor, " kept"]


def topk_codes(h: Float[Tensor, "batch d_sae"], k: int) -> Float[Tensor, "batch d_sae"]:
    """Dense codes: per token the k largest of relu(h), everything else 0; only these get a gradient.

    >>> topk_codes(torch.tensor([[1.0, 3.0, 2.0], [-1.0, -2.0, 0.5]]), k=2)
    tensor([[0.0000, 3.0000, 2.0000],
            [0.0000, 0.0000, 0.5000]])
    """
    indices = topk_indices(h, k)
    return torch.zeros_like(h).scatter(1, indices, h.gather(1, indices).relu())


def topk(h: Float[Tensor, "batch d_sae"], k: int) -> Selected:
    """The k largest pre-activations per token, without a graph: `batch * k` of them, token by token."""
    h = _check(h, k).detach()
    if by_numpy(h) and torch.get_num_threads() <= _FEW:
        indices, values = selection.largest_per_row(h.numpy(), k)
        return Selected(torch.from_numpy(values), torch.from_numpy(indices))
    if gpu.kernels(h.device):
        from saev.ops import gpu_topk

        if gpu_topk.takes(h, k):
            return Selected(*gpu_topk.topk(h, k))
    values, indices = h.topk(k, dim=1, sorted=False)
    first = torch.arange(0, h.numel(), h.shape[1], device=h.device)
    return Selected(values.flatten(), (indices + first[:, None]).flatten())


def topk_indices(h: Float[Tensor, "batch d_sae"], k: int) -> Int[Tensor, "batch k"]:
    """Per token, the latents of its k largest pre-activations, in no particular order."""
    return topk(h, k).indices.view(-1, k) % h.shape[1]


def batchtopk(h: Float[Tensor, "batch d_sae"], k: int) -> Selected:
    """The `batch * k` largest pre-activations, without a graph.

    On a GPU always `batch * k`, so that it need not synchronise; on a CPU fewer when fewer are positive. Of a batch sharded
    across processes: those of the whole batch's largest that are in this process's shard.
    """
    h = _check(h, k).detach()
    return _largest(h, len(h) * k) if collective.world_size() == 1 else _of_the_whole_batch(h, k)


def _of_the_whole_batch(h: Float[Tensor, "batch d_sae"], k: int) -> Selected:
    # Slightly more than the shard's fraction of the budget is nearly always enough; else all processes select more.
    budget = collective.global_batch_size(len(h)) * k
    n = math.ceil(budget / collective.world_size() * _SPARE) + 64
    while True:
        n = min(n, budget)
        candidates = _largest(h, min(n, h.numel()))
        values = candidates.values.relu().float()
        cut = collective.global_threshold(torch.cat([values, values.new_zeros(n - len(values))]), budget)
        if cut is not None:
            equal = values == cut.threshold
            kept = (values > cut.threshold) | (equal & (equal.cumsum(0) <= cut.ties))
            return Selected(candidates.values[kept], candidates.indices[kept])
        n *= 2


def _largest(h: Float[Tensor, "batch d_sae"], budget: int) -> Selected:
    selected = _above_estimate(h, budget) if by_numpy(h) else None
    if selected is not None:
        return selected
    values, indices = h.flatten().topk(budget, sorted=False)
    if h.device.type != "cpu":
        return Selected(values, indices)
    indices, order = indices.sort()
    return Selected(values[order], indices)


def _above_estimate(h: Float[Tensor, "batch d_sae"], budget: int) -> Selected | None:
    # A strided sample estimates a threshold that slightly more than `budget` values exceed; the exact selection runs
    # on these. None when fewer exceed it: the caller then selects from all values.
    sample = selection.sample(h.numpy(), _SAMPLE)
    rank = math.ceil(len(sample) * budget / h.numel() * _SPARE) + 64
    if rank > len(sample):
        return None
    estimate = max(0.0, float(selection.nth_largest(sample, rank)))
    candidates = selection.beyond(h.numpy(), estimate)
    if len(candidates.indices) < budget and estimate > 0:
        return None
    indices, values = selection.largest(candidates, budget)
    return Selected(torch.from_numpy(values), torch.from_numpy(indices))


def by_numpy(h: Tensor) -> bool:
    """Whether `saev.ops.selection` supports h: a plain CPU tensor in float32 or float64."""
    plain = type(h) is Tensor and not torch.compiler.is_compiling()  # no tracer, whose values are not there yet
    return plain and len(h) > 0 and h.device.type == "cpu" and h.dtype in (torch.float32, torch.float64)


def _check(h: Float[Tensor, "batch d_sae"], k: int) -> Float[Tensor, "batch d_sae"]:
    if not 1 <= k <= h.shape[1]:
        raise ValueError(f"k={k} must be between 1 and the number of latents, d_sae={h.shape[1]}: change k or d_sae.")
    return h
