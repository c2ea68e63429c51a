"""The rows * k largest positive pre-activations of a batch as pairs, exactly; of equal ones the first, row by row.

    maxima of groups ──sample──▶ floor ──▶ histogram of the keys that reach it ──▶ threshold and ties ──▶ pairs per row ──scan──▶ pairs

Keys are the bits of bfloat16, read as int16: they sort like the number where it is positive; others are never selected. NaN of positive
sign, which products give, is the largest, NaN of negative sign counts as 0. Only groups of 32 columns whose maximum reaches the floor are
read again, about 1.2 k per row. The floor comes from a sample; where fewer keys reach it than are to be selected, the histogram is
made once more with all positive keys, which the device decides by itself.
"""

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import BFloat16, Float32
from torch import Tensor

from saev.ops.fused.buffers import Buffers
from saev.ops.fused.pairs import ROWS, Pairs
from saev.ops.fused.shapes import GROUP, launch, padded

SAMPLE = 16384  # maxima from which the floor is estimated
_SPARE = 1.2  # factor by which more maxima reach the floor than pairs are to be selected
_KEYS = 32768  # of positive bfloat16
_COPIES = 8  # of the histogram: fewer additions to one address
_BINS = 128  # keys of a block, of which the histogram has 256
_READ = 512  # groups read at once
_PIECE = 8  # candidate groups read at once
_TILE = 4096  # rows whose pairs are summed at once
# The integers of `state`.
_FLOOR, _THRESHOLD, _TIES, _AGAIN = (tl.constexpr(i) for i in range(4))


def batchtopk_pairs(h: BFloat16[Tensor, "rows d_sae"], k: int, pairs: Pairs, buffers: Buffers) -> Float32[Tensor, ""]:
    """Write the pairs of `h` to `pairs`, which has room for rows * k, and add to its counts; returns the smallest value selected.

    It is inf where none is. Fewer than rows * k pairs are written where fewer pre-activations are positive; a row may have any number.
    Deterministic: the place of a pair follows from prefix sums, and integer sums have no order.
    """
    rows, d_sae = h.shape
    groups, keys = triton.cdiv(d_sae, GROUP), h.view(torch.int16)
    maxima, candidates = (buffers(name, rows, groups, dtype=torch.int16) for name in ("maxima", "candidates"))
    n_candidates, n_above, n_equal = (
        buffers(n, rows, dtype=torch.int32) for n in ("candidate groups", "above", "equal")
    )
    copies, histogram = (buffers("histogram", n, _KEYS, dtype=torch.int32) for n in (_COPIES, 1))
    blocks, state = (buffers(name, n, dtype=torch.int32) for name, n in (("blocks", _KEYS // _BINS), ("state", 4)))
    smallest = buffers("smallest")
    read = min(_READ, padded(groups))
    _maxima[(rows, triton.cdiv(groups, read))](
        keys, maxima, d_sae, groups, READ=read, GROUP=GROUP, **launch(max(1, read // 128))
    )
    sample = min(SAMPLE, padded(rows * groups + 1) // 2)
    rank = min(sample, math.ceil(sample * k / groups * _SPARE) + 8)
    _floor[(1,)](
        maxima, state, rows * groups, _stride(rows * groups // sample, groups), rank, SAMPLE=sample, **launch(8)
    )
    copies.zero_()
    for _ in range(2):  # the second time for a floor that was too high: else these kernels end at once
        _histogram[(rows,)](
            keys, maxima, candidates, n_candidates, state, copies, d_sae, groups,
            READ=read, GROUP=GROUP, PIECE=_PIECE, COPIES=_COPIES, KEYS=_KEYS, **launch(1),
        )  # fmt: skip
        _sum_copies[(_KEYS // _BINS,)](
            copies, histogram, blocks, state, COPIES=_COPIES, KEYS=_KEYS, BINS=_BINS, **launch(1)
        )
        _threshold[(1,)](histogram, blocks, state, smallest, rows * k, BLOCKS=_KEYS // _BINS, BINS=_BINS, **launch(4))
    _count[(rows,)](
        keys,
        candidates,
        n_candidates,
        state,
        n_above,
        n_equal,
        d_sae,
        groups,
        GROUP=GROUP,
        PIECE=_PIECE,
        **launch(1),
    )
    tile = min(_TILE, padded(rows))
    _offsets[(1,)](n_above, n_equal, state, pairs.offsets, rows, TILE=tile, **launch(max(1, tile // 256)))
    _write[(rows,)](
        keys, candidates, n_candidates, state, n_equal, pairs.offsets, pairs.latents, pairs.values.view(torch.int16), pairs.counts,
        d_sae, groups, GROUP=GROUP, PIECE=_PIECE, ROWS=ROWS, **launch(1),
    )  # fmt: skip
    return smallest


def _stride(least: int, groups: int) -> int:
    """At least this: a sample so far apart covers all columns."""
    stride = max(1, least)
    while math.gcd(stride, groups) > 1:
        stride += 1
    return stride


@triton.jit
@no_type_check
def _maxima(h, maxima, d_sae, groups, READ: tl.constexpr, GROUP: tl.constexpr):
    """The largest key of READ groups of a row."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * READ + tl.arange(0, READ)
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    x = tl.load(h + row * d_sae + column, mask=column < d_sae, other=0)
    tl.store(maxima + row * groups + group, tl.max(x, 1).to(tl.int16), mask=group < groups)


@triton.jit
@no_type_check
def _floor(maxima, state, n, stride, rank, SAMPLE: tl.constexpr):
    """The floor: of a sample of maxima the one of this rank, found by bisection, at least the smallest positive key."""
    at = tl.arange(0, SAMPLE).to(tl.int64) * stride % n
    x = tl.maximum(tl.load(maxima + at).to(tl.int32), 0)
    low, high = rank * 0, tl.max(x, 0) + 1
    while high - low > 1:
        middle = (low + high) // 2
        reached = tl.sum((x >= middle).to(tl.int32), 0) >= rank
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle)
    tl.store(state + _FLOOR, tl.maximum(low, 1))
    tl.store(state + _AGAIN, 1)


@triton.jit
@no_type_check
def _histogram(
    h, maxima, candidates, n_candidates, state, histogram, d_sae, groups,
    READ: tl.constexpr, GROUP: tl.constexpr, PIECE: tl.constexpr, COPIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Of a row: the groups whose maximum reaches the floor, and how often each key that does occurs."""
    if tl.load(state + _AGAIN) != 0:
        row, floor = tl.program_id(0).to(tl.int64), tl.load(state + _FLOOR)
        h, maxima, candidates = h + row * d_sae, maxima + row * groups, candidates + row * groups
        histogram += (row % COPIES) * KEYS
        n = 0
        for start in range(0, groups, READ):
            group = start + tl.arange(0, READ)
            reached = tl.load(maxima + group, mask=group < groups, other=0).to(tl.int32) >= floor
            rank = tl.cumsum(reached.to(tl.int32), 0)
            tl.store(candidates + n + rank - 1, group.to(tl.int16), mask=reached)
            n += tl.sum(reached.to(tl.int32), 0)
        tl.store(n_candidates + row, n)
        tl.debug_barrier()
        for start in range(0, n, PIECE):
            x, _ = _piece(h, candidates, start, n, d_sae, GROUP, PIECE)
            tl.atomic_add(histogram + x, 1, mask=x >= floor, sem="relaxed")


@triton.jit
@no_type_check
def _piece(h, candidates, start, n, d_sae, GROUP: tl.constexpr, PIECE: tl.constexpr):
    """(keys, columns) of the candidate groups from `start` on, by ascending column; keys are 0 after the n-th group."""
    slot = start + tl.arange(0, PIECE)
    group = tl.load(candidates + slot, mask=slot < n, other=0).to(tl.int32)
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    x = tl.load(h + column, mask=(slot < n)[:, None] & (column < d_sae), other=0).to(tl.int32)
    return tl.reshape(x, [PIECE * GROUP]), tl.reshape(column, [PIECE * GROUP])


@triton.jit
@no_type_check
def _sum_copies(copies, histogram, blocks, state, COPIES: tl.constexpr, KEYS: tl.constexpr, BINS: tl.constexpr):
    """Add up the copies of BINS keys, and all of these; leaves the copies at 0."""
    if tl.load(state + _AGAIN) != 0:
        key = tl.program_id(0) * BINS + tl.arange(0, BINS)
        n = tl.zeros([BINS], tl.int32)
        for copy in tl.static_range(COPIES):
            n += tl.load(copies + copy * KEYS + key)
            tl.store(copies + copy * KEYS + key, tl.zeros([BINS], tl.int32))
        tl.store(histogram + key, n)
        tl.store(blocks + tl.program_id(0), tl.sum(n, 0))


@triton.jit
@no_type_check
def _threshold(histogram, blocks, state, smallest, budget, BLOCKS: tl.constexpr, BINS: tl.constexpr):
    """The largest key that `budget` keys reach, or all positive ones where these are fewer, and how many equal to it are selected."""
    if tl.load(state + _AGAIN) != 0:
        block, key = tl.arange(0, BLOCKS), tl.arange(0, BINS)
        n = tl.load(blocks + block)
        total, floor = tl.sum(n, 0), tl.load(state + _FLOOR)
        again = (total < budget) & (floor > 1)
        budget = tl.minimum(budget, total)
        reaching = total - tl.cumsum(n, 0) + n  # keys in this block and above
        last = tl.maximum(tl.sum((reaching >= budget).to(tl.int32), 0) - 1, 0)
        above = tl.sum(tl.where(block > last, n, 0), 0)
        n = tl.load(histogram + last * BINS + key)
        reaching = above + tl.sum(n, 0) - tl.cumsum(n, 0) + n
        in_block = tl.maximum(tl.sum((reaching >= budget).to(tl.int32), 0) - 1, 0)
        above += tl.sum(tl.where(key > in_block, n, 0), 0)
        threshold = last * BINS + in_block
        tl.debug_barrier()
        tl.store(state + _FLOOR, 1)
        tl.store(state + _THRESHOLD, threshold)
        tl.store(state + _TIES, budget - above)
        tl.store(state + _AGAIN, again.to(tl.int32))
        number = (total > 0) & (threshold <= 0x7F80)  # else all selected are NaN
        tl.store(smallest, (tl.where(number, threshold, 0x7F80) << 16).to(tl.float32, bitcast=True))


@triton.jit
@no_type_check
def _count(
    h, candidates, n_candidates, state, n_above, n_equal, d_sae, groups, GROUP: tl.constexpr, PIECE: tl.constexpr
):  # fmt: skip
    """Of a row: how many keys are above the threshold, and how many equal to it."""
    row, threshold = tl.program_id(0).to(tl.int64), tl.load(state + _THRESHOLD)
    n = tl.load(n_candidates + row)
    both = tl.zeros([PIECE * GROUP], tl.int64)
    for start in range(0, n, PIECE):
        x, _ = _piece(h + row * d_sae, candidates + row * groups, start, n, d_sae, GROUP, PIECE)
        both += (x == threshold).to(tl.int64) + ((x > threshold).to(tl.int64) << 32)  # two counts in one number
    total = tl.sum(both, 0)
    tl.store(n_above + row, (total >> 32).to(tl.int32))
    tl.store(n_equal + row, (total & 0xFFFFFFFF).to(tl.int32))


@triton.jit
@no_type_check
def _offsets(n_above, n_equal, state, offsets, rows, TILE: tl.constexpr):
    """One program: where each row's pairs start. n_equal becomes the number of ties selected: what earlier rows leave."""
    ties = tl.load(state + _TIES)
    tl.store(offsets, 0)
    before, equal_before = 0, 0
    for start in range(0, rows, TILE):
        row = start + tl.arange(0, TILE)
        equal = tl.load(n_equal + row, mask=row < rows, other=0)
        left = tl.maximum(ties - equal_before - tl.cumsum(equal, 0) + equal, 0)
        selected = tl.minimum(equal, left)
        n = tl.load(n_above + row, mask=row < rows, other=0) + selected
        tl.store(n_equal + row, selected, mask=row < rows)
        tl.store(offsets + row + 1, before + tl.cumsum(n, 0), mask=row < rows)
        before += tl.sum(n, 0)
        equal_before += tl.sum(equal, 0)


@triton.jit
@no_type_check
def _write(
    h, candidates, n_candidates, state, n_equal, offsets, latents, values, counts, d_sae, groups,
    GROUP: tl.constexpr, PIECE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A row's pairs, by ascending latent."""
    row, threshold = tl.program_id(0).to(tl.int64), tl.load(state + _THRESHOLD)
    n, ties, at = tl.load(n_candidates + row), tl.load(n_equal + row), tl.load(offsets + row)
    counts += (row // ROWS) * d_sae
    for start in range(0, n, PIECE):
        x, column = _piece(h + row * d_sae, candidates + row * groups, start, n, d_sae, GROUP, PIECE)
        equal = (x == threshold).to(tl.int32)
        kept = (x > threshold) | ((equal > 0) & (tl.cumsum(equal, 0) <= ties))
        to = at + tl.cumsum(kept.to(tl.int32), 0) - 1
        tl.store(latents + to, column, mask=kept)
        tl.store(values + to, x.to(tl.int16), mask=kept)
        tl.atomic_add(counts + column, 1, mask=kept, sem="relaxed")
        ties -= tl.minimum(tl.sum(equal, 0), ties)
        at += tl.sum(kept.to(tl.int32), 0)
