"""Pre-activations above a bound per latent as pairs: those of JumpReLU, Gated and ReLU.

    rows ──compared with the bounds──▶ groups of 32 columns with pairs, a bit per column ──▶ pairs per row ──scan──▶ pairs

Their number is known after the step only, so that there is room for a given number: where they are more, the rest is left out, and the
step is to be repeated another way.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import BFloat16, Float32, Int32
from torch import Tensor

from saev.ops.fused.buffers import Buffers
from saev.ops.fused.pairs import ROWS, Pairs
from saev.ops.fused.shapes import launch, padded

_GROUP = 32  # columns whose bits are one integer
_READ = 64  # groups compared at once
_PIECE = 8  # groups written at once
_TILE = 4096  # rows whose pairs are summed at once


def pairs_beyond(
    h: BFloat16[Tensor, "rows d_sae"], bound: Float32[Tensor, " d_sae"], pairs: Pairs, buffers: Buffers
) -> Int32[Tensor, ""]:
    """Write the pairs with h > bound, and those with NaN, and add to the counts; returns how many there are.

    Values are h, not rectified. Where they are more than the capacity of `pairs`, only the first ones, row by row, are written and
    counted. Deterministic.
    """
    rows, d_sae = h.shape
    groups = triton.cdiv(d_sae, _GROUP)
    marked, bits = (
        buffers(name, rows, groups, dtype=d) for name, d in (("marked", torch.int16), ("bits", torch.int32))
    )
    n_groups, n_pairs = (buffers(name, rows, dtype=torch.int32) for name in ("marked groups", "pairs of a row"))
    total = buffers("pairs", dtype=torch.int32)
    read = min(_READ, padded(groups))
    _mark[(rows,)](h, bound, marked, bits, n_groups, n_pairs, d_sae, groups, READ=read, GROUP=_GROUP, **launch(1))
    tile = min(_TILE, padded(rows))
    _offsets[(1,)](n_pairs, pairs.offsets, total, rows, len(pairs.latents), TILE=tile, **launch(max(1, tile // 256)))
    _write[(rows,)](
        h.view(torch.int16), marked, bits, n_groups, pairs.offsets, pairs.latents, pairs.values.view(torch.int16), pairs.counts,
        d_sae, groups, GROUP=_GROUP, PIECE=_PIECE, ROWS=ROWS, **launch(1),
    )  # fmt: skip
    return total


@triton.jit
@no_type_check
def _mark(h, bound, marked, bits, n_groups, n_pairs, d_sae, groups, READ: tl.constexpr, GROUP: tl.constexpr):
    """Of a row: the groups that have pairs, the columns of these as bits, and the number of both."""
    row, inner = tl.program_id(0).to(tl.int64), tl.arange(0, GROUP)
    h, marked, bits = h + row * d_sae, marked + row * groups, bits + row * groups
    found, total = 0, 0
    for start in range(0, groups, READ):
        group = start + tl.arange(0, READ)
        column = group[:, None] * GROUP + inner[None, :]
        x = tl.load(h + column, mask=column < d_sae, other=0).to(tl.float32)
        least = tl.load(bound + column, mask=column < d_sae, other=float("inf"))
        word = tl.sum(tl.where(x <= least, 0, 1 << inner[None, :]), 1)  # NaN is not at most anything
        some = (word != 0).to(tl.int32)
        rank = found + tl.cumsum(some, 0) - 1
        tl.store(marked + rank, group.to(tl.int16), mask=some > 0)
        tl.store(bits + rank, word, mask=some > 0)
        found += tl.sum(some, 0)
        total += tl.sum(_ones(word), 0)
    tl.store(n_groups + row, found)
    tl.store(n_pairs + row, total)


@triton.jit
@no_type_check
def _ones(word):
    """The number of bits that are 1: sums of neighbouring 2, 4 and 8, and of the four bytes by a product."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    word = word + (word >> 8)
    return (word + (word >> 16)) & 0x3F


@triton.jit
@no_type_check
def _offsets(n_pairs, offsets, total, rows, capacity, TILE: tl.constexpr):
    """One program: where each row's pairs start, at most at the capacity."""
    tl.store(offsets, 0)
    before = tl.zeros([], tl.int64)
    for start in range(0, rows, TILE):
        row = start + tl.arange(0, TILE)
        n = tl.load(n_pairs + row, mask=row < rows, other=0).to(tl.int64)
        last = tl.minimum(before + tl.cumsum(n, 0), capacity)
        tl.store(offsets + row + 1, last.to(tl.int32), mask=row < rows)
        before += tl.sum(n, 0)
    tl.store(total, tl.minimum(before, 0x7FFFFFFF).to(tl.int32))


@triton.jit
@no_type_check
def _write(
    h, marked, bits, n_groups, offsets, latents, values, counts, d_sae, groups,
    GROUP: tl.constexpr, PIECE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A row's pairs, by ascending latent, as far as there is room."""
    row, inner = tl.program_id(0).to(tl.int64), tl.arange(0, GROUP)
    n, at, end = tl.load(n_groups + row), tl.load(offsets + row), tl.load(offsets + row + 1)
    h, marked, bits, counts = (
        h + row * d_sae,
        marked + row * groups,
        bits + row * groups,
        counts + (row // ROWS) * d_sae,
    )
    for start in range(0, n, PIECE):
        slot = start + tl.arange(0, PIECE)
        group = tl.load(marked + slot, mask=slot < n, other=0).to(tl.int32)
        word = tl.load(bits + slot, mask=slot < n, other=0)
        kept = tl.reshape((word[:, None] >> inner[None, :]) & 1, [PIECE * GROUP])
        column = tl.reshape(group[:, None] * GROUP + inner[None, :], [PIECE * GROUP])
        to = at + tl.cumsum(kept, 0) - 1
        room = (kept > 0) & (to < end)
        x = tl.load(h + column, mask=room, other=0)
        tl.store(latents + to, column, mask=room)
        tl.store(values + to, x, mask=room)
        tl.atomic_add(counts + column, 1, mask=room, sem="relaxed")
        at += tl.sum(kept, 0)
