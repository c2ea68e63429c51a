"""Which pre-activations survive: the k largest per token (TopK) or the batch * k largest of the batch (BatchTopK).

A code is relu(h) at a chosen place and 0 elsewhere, so places that are not positive do not matter. Ties: never more
than the budget is kept; which of equal values stay is fixed by the input, not documented.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.ops import collective

_SAMPLE = 32768  # pre-activations looked at to guess the batch's threshold
_SPARE = 1.25  # how many more than its share of the largest values a part of the batch is asked for


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
    indices = batchtopk_indices(h, k)
    flat = h.flatten()
    return torch.zeros_like(flat).scatter(0, indices, flat[indices].relu()).view_as(h)


def topk_indices(h: Float[Tensor, "batch d_sae"], k: int) -> Int[Tensor, "batch k"]:
    """Per token, the latents of its k largest pre-activations, in no particular order.

    `torch.topk` it is: a prefilter by block maxima gained 1.3x at k=32 of 3072 and lost at 12288.
    """
    return _check(h, k).detach().topk(k, dim=1, sorted=False).indices


def batchtopk_indices(h: Float[Tensor, "batch d_sae"], k: int) -> Int[Tensor, " kept"]:
    """Flat places (token * d_sae + latent) of the `batch * k` largest pre-activations, in no particular order.

    Always `batch * k` of them on a GPU, so that nothing waits for it; on a CPU fewer when fewer are positive. Of a batch
    shared by several processes, those places among the largest of the whole batch that are in this process's part.
    """
    h = _check(h, k).detach()
    return _largest(h, len(h) * k) if collective.world() == 1 else _of_the_whole_batch(h, k)


def batchtopk_indices_reference(h: Float[Tensor, "batch d_sae"], k: int) -> Int[Tensor, " kept"]:
    """The same by one `torch.topk` over the whole batch."""
    return h.flatten().topk(len(h) * k, sorted=False).indices


def _of_the_whole_batch(h: Float[Tensor, "batch d_sae"], k: int) -> Int[Tensor, " kept"]:
    # A little more than a process's share is nearly always enough; where it is not, all processes take more.
    flat, budget = h.flatten(), collective.whole(len(h)) * k
    n = math.ceil(budget / collective.world() * _SPARE) + 64
    while True:
        n = min(n, budget)
        places = _largest(h, min(n, h.numel()))
        values = flat[places].relu().float()
        cut = collective.cut(torch.cat([values, values.new_zeros(n - len(values))]), budget)
        if cut is not None:
            equal = values == cut.threshold
            return places[(values > cut.threshold) | (equal & (equal.cumsum(0) <= cut.ties))]
        n *= 2


def _largest(h: Float[Tensor, "batch d_sae"], budget: int) -> Int[Tensor, " kept"]:
    places = _by_prefilter(h, budget) if h.device.type == "cpu" else None
    return h.flatten().topk(budget, sorted=False).indices if places is None else places


def _by_prefilter(h: Float[Tensor, "batch d_sae"], budget: int) -> Int[Tensor, " kept"] | None:
    # A strided sample gives a threshold that a little more than `budget` values should pass; the exact selection runs
    # on those. None when fewer passed: the guess was too high, and the caller takes the long way.
    flat, d_sae = h.flatten(), h.shape[1]
    stride = max(1, flat.numel() // _SAMPLE)
    while math.gcd(stride, d_sae) > 1:  # else the sample would see the same few latents of every token
        stride += 1
    sample = flat[::stride]
    wanted = math.ceil(len(sample) * budget / flat.numel() * _SPARE) + 64
    if wanted > len(sample):
        return None
    guess = sample.topk(wanted, sorted=False).values.amin().clamp(min=0)
    places = _nonzero(~(flat <= guess))
    if len(places) <= budget:
        return places if guess == 0 or len(places) == budget else None
    return places[flat[places].topk(budget, sorted=False).indices]


def _nonzero(mask: Tensor) -> Int[Tensor, " n"]:
    # On a CPU numpy finds the true places of a flat mask 5x faster than torch.nonzero.
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def _check(h: Float[Tensor, "batch d_sae"], k: int) -> Float[Tensor, "batch d_sae"]:
    if not 1 <= k <= h.shape[1]:
        raise ValueError(f"k={k} must be between 1 and the number of latents, d_sae={h.shape[1]}: change k or d_sae.")
    return h
