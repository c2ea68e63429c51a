"""Pairs by latent instead of by row: a stable counting sort."""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Int32
from torch import Tensor

from saev.ops.fused.buffers import Buffers
from saev.ops.fused.pairs import ROWS, Pairs
from saev.ops.fused.shapes import launch, padded

SPLIT = 512  # pairs of a latent that one program of `pair_gradients` sums
_TILE = 4096  # counts in the registers of one program
_PIECES = 16  # pieces of rows in flight


class Transposed(NamedTuple):
    """Latent j has the pairs offsets[j]:offsets[j + 1], by ascending row; extra[j]:extra[j + 1] are its segments of SPLIT pairs
    after the first."""

    fired: Int32[Tensor, " d_sae"]  # the number of its pairs
    offsets: Int32[Tensor, " d_sae_and_1"]
    extra: Int32[Tensor, " d_sae_and_1"]
    rows: Int32[Tensor, " capacity"]
    values: Float32[Tensor, " capacity"]
    d_values: Float32[Tensor, " capacity"]
    d_gates: Float32[Tensor, " capacity"] | None = None  # of Gated


def transposed(
    pairs: Pairs,
    d_values: Float32[Tensor, " capacity"],
    buffers: Buffers,
    k: int = 0,
    d_gates: Float32[Tensor, " capacity"] | None = None,
) -> Transposed:
    """The pairs and their gradients by latent, without padding, in buffers; leaves `pairs.counts` at 0. `k` as in `decode_loss`.

    Three kernels: per latent the running sums of its counts over blocks of rows; the running sums over latents; and the copy, in
    which one warp takes the rows of a block in order. What an atomic addition to the counter of (block, latent) returns is then
    the pair's rank among those of the latent in this block. Of one instruction all lanes are pairs of the same row, whose latents
    differ, and one warp's additions reach an address in the order of its instructions: the order of rows, the same at each run.
    """
    (blocks, d_sae), capacity = pairs.counts.shape, len(pairs.latents)
    integers = {"dtype": torch.int32}
    base, fired = buffers("base", blocks, d_sae, **integers), buffers("fired", d_sae, **integers)
    offsets, extra = (buffers(name, d_sae + 1, **integers) for name in ("offsets", "extra"))
    rows = buffers("rows", capacity, **integers)
    by_latent, d_by_latent = (buffers(name, capacity) for name in ("values by latent", "d_values by latent"))
    gates = buffers("d_gates by latent", capacity) if d_gates is not None else None
    width = max(1, _TILE // padded(blocks))
    _scan_blocks[(triton.cdiv(d_sae, width),)](
        pairs.counts, base, fired, d_sae, blocks, BLOCKS=padded(blocks), WIDTH=width, **launch(4)
    )
    tile = min(8192, padded(d_sae))
    _scan_latents[(1,)](fired, offsets, extra, d_sae, TILE=tile, SPLIT=SPLIT, **launch(max(1, tile // 512)))
    _copy[(blocks,)](
        pairs.offsets, pairs.latents, pairs.values, d_values, d_gates, base, offsets, rows, by_latent, d_by_latent, gates,
        pairs.n_rows, d_sae, K=k, ROWS=ROWS, PIECES=_PIECES, **launch(1),
    )  # fmt: skip
    return Transposed(fired, offsets, extra, rows, by_latent, d_by_latent, gates)


@triton.jit
@no_type_check
def _scan_blocks(counts, base, fired, d_sae, n_blocks, BLOCKS: tl.constexpr, WIDTH: tl.constexpr):
    """Of WIDTH latents: base[b] is the number of pairs in the blocks before b; counts are reset."""
    latent, block = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH), tl.arange(0, BLOCKS)
    at = block.to(tl.int64)[:, None] * d_sae + latent[None, :]
    inside = (block < n_blocks)[:, None] & (latent < d_sae)[None, :]
    n = tl.load(counts + at, mask=inside, other=0)
    tl.store(counts + at, tl.zeros([BLOCKS, WIDTH], tl.int32), mask=inside)
    tl.store(base + at, tl.cumsum(n, 0) - n, mask=inside)
    tl.store(fired + latent, tl.sum(n, 0), mask=latent < d_sae)


@triton.jit
@no_type_check
def _scan_latents(fired, offsets, extra, d_sae, TILE: tl.constexpr, SPLIT: tl.constexpr):
    """One program: where each latent's pairs start, and how many segments after the first the latents before it have."""
    tl.store(offsets, 0)
    tl.store(extra, 0)
    pairs_before, extra_before = 0, 0
    for start in range(0, d_sae, TILE):
        latent = start + tl.arange(0, TILE)
        n = tl.load(fired + latent, mask=latent < d_sae, other=0)
        more = tl.maximum((n + SPLIT - 1) // SPLIT - 1, 0)
        tl.store(offsets + latent + 1, pairs_before + tl.cumsum(n, 0), mask=latent < d_sae)
        tl.store(extra + latent + 1, extra_before + tl.cumsum(more, 0), mask=latent < d_sae)
        pairs_before += tl.sum(n, 0)
        extra_before += tl.sum(more, 0)


@triton.jit
@no_type_check
def _copy(
    row_offsets, latents, values, d_values, d_gates, base, offsets, rows, by_latent, d_by_latent, gates_by_latent, n_rows, d_sae,
    K: tl.constexpr, ROWS: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """One warp per block of rows. A row is cut into pieces of 32 pairs, each of which is one instruction of 32 lanes.

    The tile has one axis, of PIECES * 32 elements: of an operation on scattered addresses Triton then gives the n-th instruction
    of a warp the n-th 32 elements. Which of two axes lanes lie along differs between its versions.
    """
    block = tl.program_id(0)
    base += block.to(tl.int64) * d_sae
    lane = tl.arange(0, PIECES * 32)
    n_here = tl.minimum(ROWS, n_rows - block * ROWS)
    if K > 0:
        n_pieces = n_here * ((K + 31) // 32)
    else:
        each = block * ROWS + tl.arange(0, ROWS)
        length = tl.load(row_offsets + each + 1, mask=each < n_rows, other=0)
        length -= tl.load(row_offsets + each, mask=each < n_rows, other=0)
        pieces_of = (length + 31) // 32
        upto, n_pieces = tl.cumsum(pieces_of, 0), tl.sum(pieces_of, 0)
    for start in range(0, n_pieces, PIECES):
        if K > 0:
            piece = start + lane // 32
            row, within = piece // ((K + 31) // 32), piece % ((K + 31) // 32)
        else:
            number = start + tl.arange(0, PIECES)
            passed = upto[None, :] <= number[:, None]  # rows whose pieces all come before
            row_of = tl.sum(passed.to(tl.int32), 1)
            within_of = number - tl.sum(tl.where(passed, pieces_of[None, :], 0), 1)
            row, within = _spread(row_of, PIECES), _spread(within_of, PIECES)
        inside = row < n_here
        row += block * ROWS
        at = tl.load(row_offsets + row, mask=inside, other=0) + within * 32 + lane % 32
        inside = inside & (at < tl.load(row_offsets + row + 1, mask=inside, other=0))
        latent = tl.load(latents + at, mask=inside, other=d_sae)
        valid = latent < d_sae
        f = tl.load(values + at, mask=valid, other=0).to(tl.float32)
        g = tl.load(d_values + at, mask=valid, other=0)
        first = tl.load(offsets + latent, mask=valid, other=0)
        to = first + tl.atomic_add(base + latent, 1, mask=valid, sem="relaxed")
        tl.store(rows + to, row, mask=valid)
        tl.store(by_latent + to, f, mask=valid)
        tl.store(d_by_latent + to, g, mask=valid)
        if d_gates is not None:
            tl.store(gates_by_latent + to, tl.load(d_gates + at, mask=valid, other=0), mask=valid)


@triton.jit
@no_type_check
def _spread(of_piece, PIECES: tl.constexpr):
    """Each entry 32 times."""
    return tl.reshape(of_piece[:, None] + tl.zeros([PIECES, 32], tl.int32), [PIECES * 32])
