"""Sums over sparse codes as GPU kernels: weighted sums of a table's rows, and dot products of selected pairs of rows.

One program per row (sums: per row and block of columns) reads its inputs once, a few pairs at a time, and accumulates in
float32 (float64 for float64 tables): no atomics, so the same input gives the same bits. They gather 2 * width bytes per pair
and are bound by the bandwidth of the cache that holds the table. (no_type_check: Triton compiles the unwrapped function.)
"""

import contextlib
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

OPTIONS = {"enable_fp_fusion": True}  # a multiplication and an addition are one instruction, rounded once
_WIDTH = 128
_FEW, _MANY = (16, 4), (64, 8)  # (pairs gathered at once, warps): 4 or 16 KB of bfloat16


def weighted_sum(
    table: Float[Tensor, "n width"],
    indices: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_and_1"],
    weights: Float[Tensor, " nnz"],
    many: bool = False,
) -> Float[Tensor, "rows width"]:
    """Per row, the weighted sum of the table's rows at its indices, in the dtype of the accumulator.

    `many`: rows may have thousands of pairs; one with 16384 then takes 256 iterations, not 1024.
    """
    table, width, n_rows = table.contiguous(), table.shape[1], len(offsets) - 1
    summed = _summed(table)
    out = torch.empty(n_rows, width, dtype=summed, device=table.device)
    if out.numel():
        grid, (pairs, warps) = (n_rows, triton.cdiv(width, _WIDTH)), _MANY if many else _FEW
        sizes = {"PAIRS": pairs, "WIDTH": _WIDTH, "SUM": _NAMES[summed], "num_warps": warps}
        with on_its_device(table):
            _weighted_sum[grid](out, table, indices, offsets, weights.contiguous(), width, **sizes, **OPTIONS)
    return out


def products(
    left: Float[Tensor, "rows width"],
    right: Float[Tensor, "n width"],
    indices: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_and_1"],
) -> Float[Tensor, " nnz"]:
    """Per pair (row, index), the dot product of left[row] and right[index], in the dtype of the accumulator."""
    left, right, width, n_rows = left.contiguous(), right.contiguous(), left.shape[1], len(offsets) - 1
    summed = _summed(right)
    out = torch.empty(len(indices), dtype=summed, device=right.device)
    if out.numel():
        sizes = {"PAIRS": _FEW[0], "WIDTH": _WIDTH, "SUM": _NAMES[summed], "num_warps": _FEW[1]}
        with on_its_device(right):
            _products[(n_rows,)](out, left, right, indices, offsets, width, **sizes, **OPTIONS)
    return out


def on_its_device(x: Tensor) -> contextlib.AbstractContextManager:
    """Context for kernels on x: Triton launches on the current device, not on that of its arguments."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


_NAMES = {torch.float32: tl.float32, torch.float64: tl.float64}


def _summed(table: Tensor) -> torch.dtype:
    return torch.float64 if table.dtype == torch.float64 else torch.float32


@triton.jit
@no_type_check
def _weighted_sum(
    out, table, indices, offsets, weights, width, PAIRS: tl.constexpr, WIDTH: tl.constexpr, SUM: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < width
    first, last = tl.load(offsets + row), tl.load(offsets + row + 1)
    total = tl.zeros([PAIRS, WIDTH], SUM)  # summed over pairs after the loop, which so has no reductions
    for start in range(first, last, PAIRS):
        pairs = start + tl.arange(0, PAIRS)
        valid = pairs < last
        index = tl.load(indices + pairs, mask=valid, other=0)
        weight = tl.load(weights + pairs, mask=valid, other=0).to(SUM)
        mask = valid[:, None] & inside[None, :]
        rows = tl.load(table + index[:, None] * width + columns[None, :], mask=mask, other=0).to(SUM)
        total += weight[:, None] * rows
    tl.store(out + row * width + columns, tl.sum(total, 0), mask=inside)


@triton.jit
@no_type_check
def _products(out, left, right, indices, offsets, width, PAIRS: tl.constexpr, WIDTH: tl.constexpr, SUM: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    first, last = tl.load(offsets + row), tl.load(offsets + row + 1)
    for start in range(first, last, PAIRS):
        pairs = start + tl.arange(0, PAIRS)
        valid = pairs < last
        index = tl.load(indices + pairs, mask=valid, other=0)
        total = tl.zeros([PAIRS, WIDTH], SUM)
        for begin in range(0, width, WIDTH):
            columns = begin + tl.arange(0, WIDTH)
            inside = columns < width
            mask = valid[:, None] & inside[None, :]
            left_row = tl.load(left + row * width + columns, mask=inside, other=0).to(SUM)
            rows = tl.load(right + index[:, None] * width + columns[None, :], mask=mask, other=0).to(SUM)
            total += left_row[None, :] * rows
        tl.store(out + pairs, tl.sum(total, 1), mask=valid)
