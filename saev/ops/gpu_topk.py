"""The k largest of each row as GPU kernels: a threshold per row, then the values that reach it.

A float's bits read as an integer, with the order of negative ones reversed, sort like the float. So the k-th largest is the
largest integer that at least k of a row's keys reach: bisection finds it, on keys that stay in registers. Values that reach it
are then written by ascending column; among equal values the first ones.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from saev.ops.gpu_sums import OPTIONS, on_its_device

WIDEST = 32768  # columns whose keys fit into the registers of one program
_CHUNK = 256  # columns per iteration of `_write`
_BITS = {torch.bfloat16: 16, torch.float16: 16, torch.float32: 32}


def takes(h: Float[Tensor, "batch d_sae"], k: int) -> bool:
    """Whether `topk` supports this dtype, width and k."""
    return h.dtype in _BITS and _parts(h.shape[1], k) is not None


def topk(h: Float[Tensor, "batch d_sae"], k: int) -> tuple[Float[Tensor, " kept"], Int[Tensor, " kept"]]:
    """(values, flat indices) of each row's k largest, row by row, by ascending column. NaN counts as the largest."""
    parts = _parts(h.shape[1], k)
    assert parts is not None, "see `takes`"
    if parts == 1:
        return _in_one(h.contiguous(), k)
    candidates, indices = _in_one(h.reshape(len(h) * parts, -1), k)  # of each part, then of all parts
    values, among = _in_one(candidates.view(len(h), parts * k), k)
    return values, indices[among]


def _parts(d_sae: int, k: int) -> int | None:
    """The number of equal parts of a row such that each, and the candidates of all, fit into registers; None: no such number."""
    n_min = triton.cdiv(d_sae, WIDEST)
    fits = (n for n in range(n_min, 4 * n_min) if d_sae % n == 0 and k <= d_sae // n and (n == 1 or n * k <= WIDEST))
    return next(fits, None)


def _in_one(h: Float[Tensor, "rows width"], k: int) -> tuple[Float[Tensor, " kept"], Int[Tensor, " kept"]]:
    n_rows, width = h.shape
    values = torch.empty(n_rows * k, dtype=h.dtype, device=h.device)
    indices = torch.empty(n_rows * k, dtype=torch.int64, device=h.device)
    threshold, ties = torch.empty(2, n_rows, dtype=torch.int32, device=h.device)
    if n_rows:
        n, bits = triton.next_power_of_2(width), _BITS[h.dtype]
        warps = max(1, min(16, n // 1024))
        groups = min(n, max(32 * warps, triton.next_power_of_2(k)))
        with on_its_device(h):
            _thresholds[(n_rows,)](
                threshold, ties, h, width, k, N=n, GROUPS=groups, BITS=bits, **OPTIONS, **{"num_warps": warps}
            )
            _write[(n_rows,)](
                values, indices, threshold, ties, h, width, k, CHUNK=_CHUNK, BITS=bits, **OPTIONS, **{"num_warps": 1}
            )
    return values, indices


@triton.jit
@no_type_check
def _thresholds(threshold, ties, h, width, k, N: tl.constexpr, GROUPS: tl.constexpr, BITS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, N)
    inside = columns < width
    keys = tl.where(inside, _key(tl.load(h + row * width + columns, mask=inside, other=0), BITS), -(1 << (BITS - 1)))
    # At least k keys reach low: one in each of at least k groups. Fewer than k reach high, which may not fit into a key's type.
    largest = tl.max(tl.reshape(keys, [GROUPS, N // GROUPS]), 1)
    low, high = tl.min(largest, 0).to(tl.int64), tl.max(largest, 0).to(tl.int64) + 1
    while high - low > 1:
        middle = low + (high - low) // 2
        n = tl.sum((keys >= middle.to(tl.int32)).to(tl.int32), 0)
        low = tl.where(n >= k, middle, low)
        high = tl.where(n > k, high, tl.where(n == k, middle + 1, middle))
    kth = low.to(tl.int32)
    tl.store(threshold + row, kth)
    tl.store(
        ties + row, k - tl.sum((keys > kth).to(tl.int32), 0)
    )  # the number of values equal to the threshold to keep


@triton.jit
@no_type_check
def _write(values, indices, threshold, ties, h, width, k, CHUNK: tl.constexpr, BITS: tl.constexpr):
    """One warp per row: offsets follow from a prefix sum, without synchronising warps."""
    row = tl.program_id(0).to(tl.int64)
    h, values, indices = h + row * width, values + row * k, indices + row * k
    kth, n_ties = tl.load(threshold + row), tl.load(ties + row)
    n_above, n_equal = 0, 0
    for start in range(0, width, CHUNK):
        columns = start + tl.arange(0, CHUNK)
        inside = columns < width
        x = tl.load(h + columns, mask=inside, other=0)
        key = _key(x, BITS)
        above, equal = (inside & (key > kth)).to(tl.int32), (inside & (key == kth)).to(tl.int32)
        both = equal + (above << 16)  # two counts at once: a chunk has fewer than 2^16 columns
        in_chunk = tl.sum(both, 0)
        if in_chunk > 0:
            upto = tl.cumsum(both, 0)
            equals = n_equal + (upto & 0xFFFF)
            kept = (above > 0) | ((equal > 0) & (equals <= n_ties))
            offset = n_above + (upto >> 16) + tl.minimum(equals, n_ties) - 1
            tl.store(values + offset, x, mask=kept)
            tl.store(indices + offset, row * width + columns, mask=kept)
        n_above += in_chunk >> 16
        n_equal += in_chunk & 0xFFFF


@triton.jit
@no_type_check
def _key(x, BITS: tl.constexpr):
    """Integers that sort like the floats; every NaN is the largest."""
    bits = x.to(tl.int16 if BITS == 16 else tl.int32, bitcast=True).to(tl.int32)
    largest: tl.constexpr = (1 << (BITS - 1)) - 1
    wide = x.to(tl.float32)  # the interpreter treats bfloat16 as integers
    return tl.where(wide == wide, bits ^ ((bits >> 31) & largest), largest)
