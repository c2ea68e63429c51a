"""Selection on a CPU: the k largest of each row, or the largest of a whole matrix, 2 to 4 times as fast as torch.topk on one thread.

    rows ──lower bound of the threshold──▶ candidates beyond it ──▶ exact threshold among these ──▶ kept indices

Rows are processed in slabs that fit into the cache. NumPy finds the nonzero entries of a mask and the nth largest value several
times as fast as torch does. Two threads are no faster: between products torch's threads spin.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64

SAMPLED = 1 << 15  # values of a sample
SLAB = 1 << 20  # bytes of a slab: fits into a core's cache
BLOCKS = 4  # block maxima per value to keep: then about k + k/8 values are candidates
MANY = 8  # more than MANY * k candidates in a row: torch.topk is faster


class Kept(NamedTuple):
    """Flat indices in ascending order, and the values there."""

    indices: Int64[np.ndarray, " kept"]
    values: Float[np.ndarray, " kept"]


def largest_per_row(h: Float[np.ndarray, "rows n"], k: int) -> Kept:
    """The k largest of each row: `rows * k` flat indices. NaN counts as the largest.

    >>> largest_per_row(np.array([[1.0, 3.0, 2.0], [5.0, 4.0, 4.0]]), 2)
    Kept(indices=array([1, 2, 3, 4]), values=array([3., 2., 5., 4.]))
    """
    n = h.shape[1]
    slab = max(1, SLAB // (n * h.itemsize))

    def of(first: int) -> Kept:
        indices, values = _of_slab(h[first : first + slab], k)
        return Kept(indices + first * n, values)

    return _joined([of(first) for first in range(0, len(h), slab)])


def beyond(h: Float[np.ndarray, "rows n"], bound: float | Float[np.ndarray, " n"]) -> Kept:
    """Values above the bound (a scalar or one per column), and NaN, with their flat indices."""
    n = h.shape[1]
    slab = max(1, SLAB // max(1, n * h.itemsize))

    def of(first: int) -> Kept:
        part = h[first : first + slab]
        indices = np.flatnonzero(~(part <= bound))
        return Kept(indices + first * n, part.reshape(-1)[indices])

    return _joined([of(first) for first in range(0, max(1, len(h)), slab)])


def fraction_beyond(h: Float[np.ndarray, "rows n"], bound: float | Float[np.ndarray, " n"]) -> float:
    """Approximate fraction of values above the bound, NaN included: of a strided sample that covers all columns."""
    stride = _stride(h, SAMPLED)
    bound = bound if np.isscalar(bound) else bound[np.arange(0, h.size, stride) % h.shape[1]]  # type: ignore[index]
    return float(np.mean(~(h.reshape(-1)[::stride] <= bound)))


def sample(h: Float[np.ndarray, "rows n"], size: int) -> Float[np.ndarray, " about_size"]:
    """A strided sample of the values."""
    return h.reshape(-1)[:: _stride(h, size)]


def _stride(h: Float[np.ndarray, "rows n"], size: int) -> int:
    stride = max(1, h.size // size)
    while math.gcd(stride, h.shape[1]) > 1:  # else only a few columns would be sampled
        stride += 1
    return stride


def largest(kept: Kept, n: int) -> Kept:
    """The n largest of these; among equal values the first."""
    return kept if len(kept.values) <= n else _cut(kept, float(nth_largest(kept.values, n)), n)


def nth_largest(x: Float[np.ndarray, "*rows m"], n: int) -> Any:
    """The nth largest value per row."""
    rank = x.shape[-1] - n
    return np.partition(x, rank, axis=-1)[..., rank]


def _joined(parts: list[Kept]) -> Kept:
    return parts[0] if len(parts) == 1 else Kept(*map(np.concatenate, zip(*parts, strict=True)))


def _cut(kept: Kept, threshold: float, n: int) -> Kept:
    # NaN is larger than every number
    above = np.isnan(kept.values) if np.isnan(threshold) else ~(kept.values < threshold)
    equal = np.flatnonzero(above if np.isnan(threshold) else kept.values == threshold)
    above[equal[len(equal) - (np.count_nonzero(above) - n) :]] = False
    return Kept(kept.indices[above], kept.values[above])


def _of_slab(h: Float[np.ndarray, "rows n"], k: int) -> Kept:
    rows, n = h.shape
    # Block maxima are different entries of the row: the k-th largest of them is at most the k-th largest of all.
    width = n // (BLOCKS * k)
    if width < 2:
        return _by_torch(h, k)
    maxima = h[:, : n // width * width].reshape(rows, width, -1).max(1)
    indices = np.flatnonzero(~(h < nth_largest(maxima, k)[:, None]))  # NaN passes
    row = indices // n
    counts = np.bincount(row, minlength=rows)
    if counts.min() < k or counts.max() > MANY * k:  # NaN, or many equal values
        return _by_torch(h, k)
    values = h.reshape(-1)[indices]
    padded = np.full((rows, counts.max()), -np.inf, h.dtype)
    shift = np.arange(rows) * padded.shape[1] - (counts.cumsum() - counts)
    padded.reshape(-1)[np.arange(len(indices)) + shift[row]] = values
    kept = np.flatnonzero(~(values < nth_largest(padded, k)[row]))  # at least k of each row
    return Kept(indices[kept], values[kept]) if len(kept) == rows * k else _by_torch(h, k)


def _by_torch(h: Float[np.ndarray, "rows n"], k: int) -> Kept:
    """For every input: as many values equal to the threshold as fit, NaN first."""
    columns = np.sort(torch.from_numpy(h).topk(k, dim=1, sorted=False).indices.numpy(), axis=1)
    indices = (columns + np.arange(len(h))[:, None] * h.shape[1]).reshape(-1)
    return Kept(indices, h.reshape(-1)[indices])
