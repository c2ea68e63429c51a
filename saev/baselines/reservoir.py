"""A uniform sample of tokens from a stream, independent of its order, its batches and the processes that divide it."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saev.baselines.fitter import Resumable

_LAST = torch.iinfo(torch.int64).max


class Reservoir(Resumable):
    """The `size` tokens of smallest hash(seed, token number), bottom-k sampling (Cohen & Kaplan 2007).

    The hash is a bijection of the token number, so there are no ties, and the sample of a stream is the smallest of its halves'
    samples together. Rows are sorted by hash: in random order.
    """

    state = ("hashes", "rows")

    def __init__(self, size: int, d_model: int, seed: int, device: torch.device | None = None):
        self.seed = seed
        self.hashes = torch.full((size,), _LAST, dtype=torch.int64, device=device)
        self.rows = torch.zeros(size, d_model, device=device)

    def add(self, rows: Float[Tensor, "batch d_model"], token: Int64[Tensor, " batch"]) -> None:
        """Add tokens, each of which occurs once in a stream."""
        hashes = mixed(token, self.seed)
        below = hashes < self.hashes[-1]
        self._keep(hashes[below], rows[below])

    def merge(self, other: "Reservoir") -> None:
        """Add the sample of another reservoir of the same seed and size, taken from other tokens."""
        self._keep(other.hashes, other.rows)

    def _keep(self, hashes: Int64[Tensor, " n"], rows: Float[Tensor, "n d_model"]) -> None:
        if len(hashes):
            hashes, order = torch.cat([self.hashes, hashes]).sort(stable=True)
            order = order[: len(self.hashes)]
            self.hashes, self.rows = hashes[: len(self.hashes)], torch.cat([self.rows, rows])[order]


def mixed(token: Int64[Tensor, " n"], seed: int) -> Int64[Tensor, " n"]:
    """SplitMix64 (Steele, Lea & Flood 2014) of seed and token number: for each seed a bijection of 64-bit integers.

    >>> mixed(torch.arange(2), 0)
    tensor([                   0, -2152535657050944081])
    """
    return _finalise(token * _signed(0x9E3779B97F4A7C15) + _finalise(torch.tensor(seed, device=token.device)))


def _finalise(x: Tensor) -> Tensor:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # torch's shift is arithmetic


def _signed(value: int) -> int:
    return value - (1 << 64)
