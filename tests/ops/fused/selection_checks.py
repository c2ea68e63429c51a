"""Selections of pairs beside sorts and comparisons of whole matrices, on any device."""

import torch
from torch import Tensor
from torch.testing import assert_close

from saev.ops.fused.batchtopk_pairs import batchtopk_pairs
from saev.ops.fused.buffers import Buffers
from saev.ops.fused.pairs import ROWS, Pairs
from saev.ops.fused.pairs_beyond import pairs_beyond


def buffers_for(h: Tensor) -> Buffers:
    """Buffers of which nothing is known."""
    return Buffers(h.device).for_rows(len(h))


def pairs_for(h: Tensor, capacity: int) -> Pairs:
    """Pairs of which nothing is known, except that nothing is counted."""
    pairs = Pairs.empty(len(h), capacity, h.shape[1], h.device)
    pairs.offsets.fill_(12345), pairs.latents.fill_(12345), pairs.values.fill_(torch.nan)
    return pairs


def check_batchtopk(h: Tensor, k: int) -> Pairs:
    """Pairs are the rows * k largest positive ones, of equal ones the first; twice the same bits; returns them."""
    rows = len(h)
    keys = torch.where((h > 0) | (h.isnan() & ~h.signbit()), h.view(torch.int16), 0).flatten()
    largest = keys.int().topk(min(rows * k, keys.numel())).values
    least = largest[-1]
    equal = (keys == least).nonzero().squeeze(1)[: int((largest == least).sum())]
    selected = torch.cat([(keys > least).nonzero().squeeze(1), equal]).sort().values
    selected = selected[keys[selected] > 0]
    buffers, pairs, again = buffers_for(h), pairs_for(h, rows * k), pairs_for(h, rows * k)
    smallest = batchtopk_pairs(h, k, pairs, buffers).clone()
    check_pairs(pairs, h, selected)
    numbers = h.flatten()[selected]
    numbers = numbers[~numbers.isnan()]
    assert float(smallest) == (float(numbers.min()) if len(numbers) else torch.inf)
    buffers.poison()
    assert batchtopk_pairs(h, k, again, buffers) == smallest
    assert_equal_bits(pairs, again, len(selected))
    return pairs


def check_beyond(h: Tensor, bound: Tensor, capacity: int) -> Pairs:
    """Pairs are the first ones above the bound, as many as there is room for, the total is right; twice the same bits."""
    selected = (~(h.float() <= bound)).flatten().nonzero().squeeze(1)
    buffers, pairs, again = buffers_for(h), pairs_for(h, capacity), pairs_for(h, capacity)
    assert int(pairs_beyond(h, bound, pairs, buffers)) == len(selected)
    check_pairs(pairs, h, selected[:capacity])
    buffers.poison()
    assert int(pairs_beyond(h, bound, again, buffers)) == len(selected)
    assert_equal_bits(pairs, again, min(capacity, len(selected)))
    return pairs


def check_pairs(pairs: Pairs, h: Tensor, selected: Tensor) -> None:
    """Offsets, latents, bits of values and counts are those of the selected entries, flat indices in order."""
    rows, d_sae = h.shape
    starts = torch.arange(rows + 1, device=h.device) * d_sae
    assert torch.equal(pairs.offsets.long(), torch.searchsorted(selected, starts))
    n = len(selected)
    assert torch.equal(pairs.latents[:n].long(), selected % d_sae)
    assert torch.equal(pairs.values[:n].view(torch.int16), h.flatten()[selected].view(torch.int16))
    assert bool((pairs.latents[n:] == 12345).all()) and bool(pairs.values[n:].isnan().all()), (
        "written where there is no pair"
    )
    counted = selected // d_sae // ROWS * d_sae + selected % d_sae
    assert torch.equal(pairs.counts.flatten().long(), torch.bincount(counted, minlength=pairs.counts.numel()))


def assert_equal_bits(one: Pairs, other: Pairs, n: int) -> None:
    """The first n pairs, and all offsets and counts."""
    assert torch.equal(one.offsets, other.offsets) and torch.equal(one.counts, other.counts)
    assert torch.equal(one.latents[:n], other.latents[:n])
    assert_close(one.values[:n].view(torch.int16), other.values[:n].view(torch.int16), rtol=0, atol=0)
