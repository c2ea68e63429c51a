"""Which pre-activations survive: the k largest per token (TopK) or the batch * k largest of the batch (BatchTopK).

A code is relu(h) at a chosen place and 0 elsewhere, so places that are not positive do not matter. Ties: never more
than the budget is kept; which of equal values stay is fixed by the input, not documented.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.ops import collective, gpu, selection

_SAMPLE = 32768  # pre-activations looked at to guess the batch's threshold
_SPARE = 1.25  # how many more than its fraction of the largest values a part of the batch is asked for

# Threads up to which NumPy, on one, finds the largest of each row sooner than torch.topk, which divides the rows.
_FEW = 4


class Selected(NamedTuple):
    """Chosen pre-activations, and their flat places (token * d_sae + latent): those of NumPy in ascending order."""

    values: Float[Tensor, " kept"]
    places: Int[Tensor, " kept"]


def topk_codes(h: Float[Tensor, "batch d_sae"], k: int) -> Float[Tensor, "batch d_sae"]:
    """Dense codes: per token the k largest of relu(h), everything else 0; the gradient reaches those alone.

    >>> topk_codes(torch.tensor([[1.0, 3.0, 2.0], [-1.0, -2.0, 0.5]]), k=2)
    tensor([[0.0000, 3.0000, 2.0000],
            [0.0000, 0.0000, 0.5000]])
    """
    indices = topk_indices(h, k)
    return torch.zeros_like(h).scatter(1, indices, h.gather(1, indices).relu())


def batchtopk_codes(h: Float[Tensor, "batch d_sae"], k: int) -> Float[Tensor, "batch d_sae"]:
    """Dense codes: the `batch * k` largest of relu(h) over the whole batch, everything else 0.

    >>> batchtopk_codes(torch.tensor([[1.0, 3.0, 2.0], [-1.0, -2.0, 0.5]]), k=1)
    tensor([[0., 3., 2.],
            [0., 0., 0.]])
    """
    places, flat = batchtopk(h, k).places, h.flatten()
    return torch.zeros_like(flat).scatter(0, places, flat[places].relu()).view_as(h)


def topk(h: Float[Tensor, "batch d_sae"], k: int) -> Selected:
    """Per token its k largest pre-activations, without a graph: `batch * k` of them, token after token."""
    h = _check(h, k).detach()
    if by_numpy(h) and torch.get_num_threads() <= _FEW:
        places, values = selection.largest_per_row(h.numpy(), k)
        return Selected(torch.from_numpy(values), torch.from_numpy(places))
    if gpu.kernels(h.device):
        from saev.ops import gpu_topk

        if gpu_topk.takes(h, k):
            return Selected(*gpu_topk.topk(h, k))
    values, indices = h.topk(k, dim=1, sorted=False)
    first = torch.arange(0, h.numel(), h.shape[1], device=h.device)
    return Selected(values.flatten(), (indices + first[:, None]).flatten())


def topk_indices(h: Float[Tensor, "batch d_sae"], k: int) -> Int[Tensor, "batch k"]:
    """Per token, the latents of its k largest pre-activations, in no particular order."""
    return topk(h, k).places.view(-1, k) % h.shape[1]


def topk_reference(h: Float[Tensor, "batch d_sae"], k: int) -> Selected:
    """The same by sorting every token's pre-activations, in ascending order of places."""
    indices = h.argsort(dim=1, descending=True)[:, :k].sort(1).values
    places = (indices + torch.arange(0, h.numel(), h.shape[1])[:, None]).flatten()
    return Selected(h.flatten()[places], places)


def batchtopk(h: Float[Tensor, "batch d_sae"], k: int) -> Selected:
    """The `batch * k` largest pre-activations, without a graph.

    Always `batch * k` of them on a GPU, so that nothing waits for it; on a CPU fewer when fewer are positive. Of a batch
    shared by several processes, those among the largest of the whole batch that are in this process's part.
    """
    h = _check(h, k).detach()
    return _largest(h, len(h) * k) if collective.world_size() == 1 else _of_the_whole_batch(h, k)


def batchtopk_reference(h: Float[Tensor, "batch d_sae"], k: int) -> Selected:
    """The same by one `torch.topk` over the whole batch."""
    return Selected(*h.flatten().topk(len(h) * k, sorted=False))


def _of_the_whole_batch(h: Float[Tensor, "batch d_sae"], k: int) -> Selected:
    # A little more than a process's share is nearly always enough; where it is not, all processes take more.
    budget = collective.global_batch_size(len(h)) * k
    n = math.ceil(budget / collective.world_size() * _SPARE) + 64
    while True:
        n = min(n, budget)
        found = _largest(h, min(n, h.numel()))
        values = found.values.relu().float()
        cut = collective.global_threshold(torch.cat([values, values.new_zeros(n - len(values))]), budget)
        if cut is not None:
            equal = values == cut.threshold
            kept = (values > cut.threshold) | (equal & (equal.cumsum(0) <= cut.ties))
            return Selected(found.values[kept], found.places[kept])
        n *= 2


def _largest(h: Float[Tensor, "batch d_sae"], budget: int) -> Selected:
    found = _beyond_a_guess(h, budget) if by_numpy(h) else None
    if found is not None:
        return found
    values, places = h.flatten().topk(budget, sorted=False)
    if h.device.type != "cpu":
        return Selected(values, places)
    places, order = places.sort()
    return Selected(values[order], places)


def _beyond_a_guess(h: Float[Tensor, "batch d_sae"], budget: int) -> Selected | None:
    # A strided sample gives a threshold that a little more than `budget` values should pass; the exact selection runs
    # on those. None when fewer passed: the guess was too high, and the caller takes the long way.
    sample = selection.sample(h.numpy(), _SAMPLE)
    wanted = math.ceil(len(sample) * budget / h.numel() * _SPARE) + 64
    if wanted > len(sample):
        return None
    guess = max(0.0, float(selection.nth_largest(sample, wanted)))
    found = selection.beyond(h.numpy(), guess)
    if len(found.places) < budget and guess > 0:
        return None
    places, values = selection.largest(found, budget)
    return Selected(torch.from_numpy(values), torch.from_numpy(places))


def by_numpy(h: Tensor) -> bool:
    """Whether `saev.ops.selection` can be asked."""
    plain = (
        type(h) is Tensor and not torch.compiler.is_compiling()
    )  # not one that stands for others while they are traced
    return plain and len(h) > 0 and h.device.type == "cpu" and h.dtype in (torch.float32, torch.float64)


def _check(h: Float[Tensor, "batch d_sae"], k: int) -> Float[Tensor, "batch d_sae"]:
    if not 1 <= k <= h.shape[1]:
        raise ValueError(f"k={k} must be between 1 and the number of latents, d_sae={h.shape[1]}: change k or d_sae.")
    return h
