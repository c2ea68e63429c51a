"""The k largest positive pre-activations of each row as pairs, exactly; of equal ones those of lower latents.

A group is 32 neighbouring columns (fewer in small dictionaries). Let t be the k-th largest maximum of a group. Fewer than k groups
have a larger maximum, so all pre-activations above t lie in them; and k groups with a maximum of at least t have k
pre-activations of at least t. So the k groups of the largest maxima, ties to the lower group, hold the k largest
pre-activations, ties to the lower latent: a row is read once, and then k groups of it, out of the cache.

A bfloat16's bits, read as int16, sort like the number where it is positive; all others count as 0 and are never selected. NaN of
positive sign, which products give, is the largest, NaN of negative sign counts as 0.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import BFloat16
from torch import Tensor

from saev.ops.fused.buffers import Buffers
from saev.ops.fused.pairs import ROWS, Pairs
from saev.ops.fused.shapes import group_width, launch, padded

_GROUPS = 128  # read at once: the other programs of a multiprocessor run while one waits
_PIECE = 8  # groups written at once


def topk_pairs(h: BFloat16[Tensor, "rows d_sae"], k: int, pairs: Pairs, buffers: Buffers) -> None:
    """Write the pairs of `h` to `pairs`, which has k entries a row (`Pairs.equal_rows`), and add to its counts.

    The row is padded where fewer than k pre-activations are positive. One program per row; deterministic: the place of a pair
    follows from prefix sums, and integer sums have no order.
    """
    rows, d_sae = h.shape
    width = group_width(d_sae, k)
    assert width is not None, "see `refusal`"
    groups = d_sae // width
    maxima, chosen = (buffers(name, rows, n, dtype=torch.int16) for name, n in (("maxima", groups), ("chosen", k)))
    _topk[(rows,)](
        h.view(torch.int16), maxima, chosen, pairs.values.view(torch.int16), pairs.latents, pairs.counts, d_sae,
        K=k, SLOTS=padded(k), GROUPS=groups, TILE=padded(groups), COARSE=min(padded(groups), max(64, padded(k))), WIDTH=width,
        READ=min(_GROUPS, padded(groups)), PIECE=min(padded(k), _PIECE), ROWS=ROWS,
        **launch(2 if groups > 256 else 1),
    )  # fmt: skip


@triton.jit
@no_type_check
def _topk(
    h, maxima, chosen, values, latents, counts, d_sae,
    K: tl.constexpr, SLOTS: tl.constexpr, GROUPS: tl.constexpr, TILE: tl.constexpr, COARSE: tl.constexpr, WIDTH: tl.constexpr,
    READ: tl.constexpr, PIECE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Maxima of all groups, the K largest of these, the threshold among their columns, then the pairs that reach it."""
    row = tl.program_id(0).to(tl.int64)
    h, maxima, chosen = h + row * d_sae, maxima + row * GROUPS, chosen + row * K
    values, latents, counts = values + row * K, latents + row * K, counts + (row // ROWS) * d_sae
    inner, slot, group = tl.arange(0, WIDTH), tl.arange(0, SLOTS), tl.arange(0, TILE)
    for start in range(0, GROUPS, READ):
        read = start + tl.arange(0, READ)
        x = tl.load(h + read[:, None] * WIDTH + inner[None, :], mask=(read < GROUPS)[:, None], other=0)
        tl.store(maxima + read, tl.max(x, 1).to(tl.int16), mask=read < GROUPS)
    tl.debug_barrier()
    largest = tl.maximum(tl.load(maxima + group, mask=group < GROUPS, other=0).to(tl.int32), 0)
    coarse = tl.max(tl.reshape(largest, [COARSE, TILE // COARSE]), 1)  # at least K of them: the least is a lower bound
    kth = _kth(largest, tl.min(coarse, 0), tl.max(coarse, 0) + 1, K)
    above, equal = largest > kth, (largest == kth) & (group < GROUPS)
    ranks = tl.cumsum(equal.to(tl.int32) + (above.to(tl.int32) << 16), 0)  # two counts in one number
    ties = K - tl.sum(above.to(tl.int32), 0)
    kept = above | (equal & ((ranks & 0xFFFF) <= ties))
    tl.store(chosen + (ranks >> 16) + tl.minimum(ranks & 0xFFFF, ties) - 1, group.to(tl.int16), mask=kept)
    tl.debug_barrier()
    x, _ = _columns_of(h, chosen, slot, inner, K, WIDTH)
    n = tl.sum((x >= kth + 4).to(tl.int32))  # mostly the threshold is one of the next keys
    low, high = tl.where(n >= K, kth + 4, kth), tl.where(n >= K, tl.max(x) + 1, kth + 4)
    kth = _kth(x, low, high, K)
    ties = tl.where(kth > 0, K - tl.sum((x > kth).to(tl.int32)), 0)
    n_above, n_equal = 0, 0
    for start in range(0, SLOTS, PIECE):  # read again, out of L1: all at once they would take all registers
        key, column = _columns_of(h, chosen, start + tl.arange(0, PIECE), inner, K, WIDTH)
        key, column = tl.reshape(key, [PIECE * WIDTH]), tl.reshape(column, [PIECE * WIDTH])
        exceeds, reaches = (key > kth).to(tl.int32), (key == kth).to(tl.int32)
        both = reaches + (exceeds << 16)
        upto = tl.cumsum(both, 0)
        equals = n_equal + (upto & 0xFFFF)
        taken = (exceeds > 0) | ((reaches > 0) & (equals <= ties))
        at = n_above + (upto >> 16) + tl.minimum(equals, ties) - 1
        tl.store(values + at, key.to(tl.int16), mask=taken)
        tl.store(latents + at, column, mask=taken)
        tl.atomic_add(counts + column, 1, mask=taken, sem="relaxed")
        total = tl.sum(both, 0)
        n_above += total >> 16
        n_equal += total & 0xFFFF
    padding = (slot < K) & (slot >= n_above + tl.minimum(n_equal, ties))
    tl.store(values + slot, tl.zeros([SLOTS], tl.int16), mask=padding)
    tl.store(latents + slot, tl.zeros([SLOTS], tl.int32) + d_sae, mask=padding)


@triton.jit
@no_type_check
def _columns_of(h, chosen, slot, inner, K: tl.constexpr, WIDTH: tl.constexpr):
    """(keys, at least 0, and -1 beyond the last slot; columns) of the chosen groups in these slots."""
    group = tl.load(chosen + slot, mask=slot < K, other=0).to(tl.int32)
    column = group[:, None] * WIDTH + inner[None, :]
    valid = (slot < K)[:, None] & (column >= 0)
    x = tl.load(h + column, mask=valid, other=0).to(tl.int32)
    return tl.where(valid, tl.maximum(x, 0), -1), column


@triton.jit
@no_type_check
def _kth(x, low, high, K: tl.constexpr):
    """A t in [low, high) that at least K of x reach, such that it is exactly K, or fewer than K exceed it; at least K reach `low`."""
    while high - low > 1:
        middle = (low + high) // 2
        n = tl.sum((x >= middle).to(tl.int32))
        low = tl.where(n >= K, middle, low)
        high = tl.where(n > K, high, tl.where(n == K, middle + 1, middle))
    return low
