"""Sums over sparse codes as GPU kernels: weighted sums of a table's rows, and the products of chosen pairs of rows.

One program for each row (and, of sums, for each stretch of columns), which reads what it needs once, in a few pairs at a
time, and adds up in float32 (float64 for float64 tables): no atomics, so that the same input gives the same bits. Gathering
2 * width bytes a pair, they are bound by the cache that holds the table. (no_type_check: Triton compiles functions as they are
written, unwrapped.)
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

OPTIONS = {"enable_fp_fusion": True}  # a multiplication and an addition are one instruction, rounded once
_PAIRS, _WIDTH = 16, 128  # gathered at once: 4 KB of bfloat16, in 80 registers a thread at most


def weighted_sum(
    table: Float[Tensor, "n width"],
    places: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_and_1"],
    weights: Float[Tensor, " nnz"],
) -> Float[Tensor, "rows width"]:
    """Per row, the weighted sum of the table's rows at its places, in the precision of the sum."""
    table, width, n_rows = table.contiguous(), table.shape[1], len(offsets) - 1
    summed = _summed(table)
    out = torch.empty(n_rows, width, dtype=summed, device=table.device)
    if out.numel():
        grid = (n_rows, triton.cdiv(width, _WIDTH))
        _weighted_sum[grid](
            out,
            table,
            places,
            offsets,
            weights.contiguous(),
            width,
            PAIRS=_PAIRS,
            WIDTH=_WIDTH,
            SUM=_NAMES[summed],
            **OPTIONS,
        )
    return out


def products(
    left: Float[Tensor, "rows width"],
    right: Float[Tensor, "n width"],
    places: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_and_1"],
) -> Float[Tensor, " nnz"]:
    """Of each pair (row, place), the product of left's row and right's, in the precision of the sum."""
    left, right, width, n_rows = left.contiguous(), right.contiguous(), left.shape[1], len(offsets) - 1
    summed = _summed(right)
    out = torch.empty(len(places), dtype=summed, device=right.device)
    if out.numel():
        _products[(n_rows,)](
            out, left, right, places, offsets, width, PAIRS=_PAIRS, WIDTH=_WIDTH, SUM=_NAMES[summed], **OPTIONS
        )
    return out


_NAMES = {torch.float32: tl.float32, torch.float64: tl.float64}


def _summed(table: Tensor) -> torch.dtype:
    return torch.float64 if table.dtype == torch.float64 else torch.float32


@triton.jit
@no_type_check
def _weighted_sum(
    out, table, places, offsets, weights, width, PAIRS: tl.constexpr, WIDTH: tl.constexpr, SUM: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < width
    first, last = tl.load(offsets + row), tl.load(offsets + row + 1)
    total = tl.zeros([WIDTH], SUM)
    for start in range(first, last, PAIRS):
        pairs = start + tl.arange(0, PAIRS)
        there = pairs < last
        place = tl.load(places + pairs, mask=there, other=0)
        weight = tl.load(weights + pairs, mask=there, other=0).to(SUM)
        mask = there[:, None] & inside[None, :]
        rows = tl.load(table + place[:, None] * width + columns[None, :], mask=mask, other=0).to(SUM)
        total += tl.sum(weight[:, None] * rows, 0)
    tl.store(out + row * width + columns, total, mask=inside)


@triton.jit
@no_type_check
def _products(out, left, right, places, offsets, width, PAIRS: tl.constexpr, WIDTH: tl.constexpr, SUM: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    first, last = tl.load(offsets + row), tl.load(offsets + row + 1)
    for start in range(first, last, PAIRS):
        pairs = start + tl.arange(0, PAIRS)
        there = pairs < last
        place = tl.load(places + pairs, mask=there, other=0)
        total = tl.zeros([PAIRS], SUM)
        for begin in range(0, width, WIDTH):
            columns = begin + tl.arange(0, WIDTH)
            inside = columns < width
            mask = there[:, None] & inside[None, :]
            mine = tl.load(left + row * width + columns, mask=inside, other=0).to(SUM)
            rows = tl.load(right + place[:, None] * width + columns[None, :], mask=mask, other=0).to(SUM)
            total += tl.sum(mine[None, :] * rows, 1)
        tl.store(out + pairs, total, mask=there)
