"""The tokens of a table as tie groups by descending code, per class: the input of all ranking measures.

A block of latents has two lists of groups: those of non-zero codes, with the classes that have tokens there, and the silent
group of each latent, with every class.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from saev.ops import ordering
from saev.probing.counts import segments
from saev.probing.counts.table import LabelTable

PAIRS = 1 << 16  # per block: on a CPU, integers below 2^16 are sorted by counting
ENTRIES = 1 << 22  # per block


class TieGroups(NamedTuple):
    """Groups of tokens with equal codes, and the classes in each."""

    size: Int64[Tensor, " groups"]
    above: Int64[Tensor, " groups"]
    """Tokens with higher codes."""
    edge: Float64[Tensor, " groups"]
    """The lowest code."""
    group: Int64[Tensor, " entries"]
    pair: Int64[Tensor, " entries"]
    """Latent (within the block) * classes + class."""
    positives: Int64[Tensor, " entries"]
    """Tokens of the group that are of the class."""
    hits: Int64[Tensor, " entries"]
    """Tokens of the class with higher codes."""


def blocks(table: LabelTable) -> Iterator[tuple[slice, tuple[TieGroups, TieGroups]]]:
    """Blocks of consecutive latents with their (firing, silent) groups; memory is about 100 bytes per entry.

    A latent with more than `ENTRIES` entries is a block by itself.
    """
    latents = torch.arange(table.n_latents + 1, device=table.latent.device)
    group_ends = torch.searchsorted(table.latent, latents)
    ends = torch.searchsorted(table.group, group_ends)
    last = ends.cpu()
    most = max(1, PAIRS // table.n_classes)
    start = 0
    while start < table.n_latents:
        fits = int(torch.searchsorted(last, last[start] + ENTRIES, right=True)) - 1
        stop = min(max(fits, start + 1), start + most, table.n_latents)
        groups = slice(int(group_ends[start]), int(group_ends[stop]))
        yield slice(start, stop), _block(table, slice(start, stop), groups, slice(int(last[start]), int(last[stop])))
        start = stop


def _block(table: LabelTable, rows: slice, groups: slice, entries: slice) -> tuple[TieGroups, TieGroups]:
    n, n_classes = rows.stop - rows.start, table.n_classes
    latent, count = table.latent[groups] - rows.start, table.count[groups]
    negative = table.key[groups] < 0
    firings = segments.scatter_sum(count, latent, n)
    negatives = segments.scatter_sum(count * negative, latent, n)
    silent = table.n_tokens - firings

    upto = count.cumsum(0)  # groups ascend: the rest of the latent has higher codes
    above = firings.cumsum(0)[latent] - upto + torch.where(negative, silent[latent], 0)

    group = table.group[entries].flip(0) - groups.start  # descending
    pair = latent[group] * n_classes + table.label[entries].flip(0)
    by_pair = ordering.order(pair, below=n * n_classes)
    group, pair, positives = group[by_pair], pair[by_pair], table.joint[entries].flip(0)[by_pair]
    below_zero = negative[group]
    silent_positives = (table.positives - table.p0[rows]).flatten()
    hits = _before(positives, pair) + torch.where(below_zero, silent_positives[pair], 0)

    every = torch.arange(n * n_classes, device=latent.device)
    fired = TieGroups(count, above, table.edges[groups], group, pair, positives, hits)
    hits = segments.scatter_sum(positives * ~below_zero, pair, n * n_classes)
    zero = torch.zeros(n, dtype=torch.float64, device=latent.device)
    return fired, TieGroups(silent, firings - negatives, zero, every // n_classes, every, silent_positives, hits)


def _before(positives: Int64[Tensor, " n"], pair: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Per entry, the sum of the positives of earlier entries of its pair."""
    starts = segments.segment_starts(pair)
    before = positives.cumsum(0) - positives
    return before - before[starts][segments.segment_ids(starts, len(pair))]
