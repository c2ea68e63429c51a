"""The k largest of each row as a GPU kernel: one program a row, which reads it once and halves the range of its threshold.

The bits of a float, read as an integer with the negative ones turned round, are in the order of the floats. So the k-th largest
is the largest integer that at least k of a row's keys reach: found in as many steps as a float has bits, or fewer, on keys that
stay in registers. What passes is then written in the order of columns; of equal values the first ones.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from saev.ops.gpu_sums import OPTIONS

WIDEST = 32768  # columns whose keys the registers of one program hold
_BITS = {torch.bfloat16: 16, torch.float16: 16, torch.float32: 32}


def takes(h: Float[Tensor, "batch d_sae"], k: int) -> bool:
    """Whether `topk` can be asked."""
    return h.dtype in _BITS and _parts(h.shape[1], k) is not None


def topk(h: Float[Tensor, "batch d_sae"], k: int) -> tuple[Float[Tensor, " kept"], Int[Tensor, " kept"]]:
    """(values, flat places) of each row's k largest, row after row, by ascending column. NaN counts as the largest."""
    parts = _parts(h.shape[1], k)
    assert parts is not None, "ask `takes`"
    if parts == 1:
        return _in_one(h.contiguous(), k)
    some, places = _in_one(h.reshape(len(h) * parts, -1), k)  # those of each part, then of all parts
    values, among = _in_one(some.view(len(h), parts * k), k)
    return values, places[among]


def _parts(d_sae: int, k: int) -> int | None:
    """Into how many equal parts a row is divided so that registers hold each, and all that comes of them."""
    least = triton.cdiv(d_sae, WIDEST)
    fits = (n for n in range(least, 4 * least) if d_sae % n == 0 and k <= d_sae // n and (n == 1 or n * k <= WIDEST))
    return next(fits, None)


def _in_one(h: Float[Tensor, "rows width"], k: int) -> tuple[Float[Tensor, " kept"], Int[Tensor, " kept"]]:
    n_rows, width = h.shape
    values = torch.empty(n_rows * k, dtype=h.dtype, device=h.device)
    places = torch.empty(n_rows * k, dtype=torch.int64, device=h.device)
    if n_rows:
        n = triton.next_power_of_2(width)
        warps = max(1, min(16, n // 1024))
        sizes = {"N": n, "CHUNK": min(n, 128 * warps), "BITS": _BITS[h.dtype]}
        _topk[(n_rows,)](values, places, h, width, k, **sizes, **OPTIONS, **{"num_warps": warps})
    return values, places


@triton.jit
@no_type_check
def _topk(values, places, h, d_sae, k, N: tl.constexpr, CHUNK: tl.constexpr, BITS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    h, values, places = h + row * d_sae, values + row * k, places + row * k
    every = tl.arange(0, N)
    keys = tl.where(every < d_sae, _key(tl.load(h + every, mask=every < d_sae, other=0), BITS), -(1 << (BITS - 1)))
    # At least k keys reach low, fewer than k reach high, which may be one more than fits the keys' type
    low, high = tl.min(keys, 0).to(tl.int64), tl.max(keys, 0).to(tl.int64) + 1
    while high - low > 1:
        middle = low + (high - low) // 2
        n = tl.sum((keys >= middle.to(tl.int32)).to(tl.int32), 0)
        low = tl.where(n >= k, middle, low)
        high = tl.where(n > k, high, tl.where(n == k, middle + 1, middle))
    threshold = low.to(tl.int32)
    ties = k - tl.sum((keys > threshold).to(tl.int32), 0)  # how many of those at the threshold are taken
    n_kept, n_equal = 0, 0
    for start in range(
        0, d_sae, CHUNK
    ):  # read again from the cache: to rank all columns at once takes too many registers
        columns = start + tl.arange(0, CHUNK)
        x = tl.load(h + columns, mask=columns < d_sae, other=0)
        key = _key(x, BITS)
        equal = ((columns < d_sae) & (key == threshold)).to(tl.int32)
        first = (equal > 0) & (n_equal + tl.cumsum(equal, 0) <= ties)
        kept = ((columns < d_sae) & (key > threshold)) | first
        at = n_kept + tl.cumsum(kept.to(tl.int32), 0) - 1
        tl.store(values + at, x, mask=kept)
        tl.store(places + at, row * d_sae + columns, mask=kept)
        n_kept += tl.sum(kept.to(tl.int32), 0)
        n_equal += tl.sum(equal, 0)


@triton.jit
@no_type_check
def _key(x, BITS: tl.constexpr):
    """Integers in the order of the floats, every NaN the largest."""
    bits = x.to(tl.int16 if BITS == 16 else tl.int32, bitcast=True).to(tl.int32)
    largest: tl.constexpr = (1 << (BITS - 1)) - 1
    return tl.where(x == x, bits ^ ((bits >> 31) & largest), largest)
