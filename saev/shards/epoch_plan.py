"""The order of a stream, computed without reading anything: which tokens form batch k, for any k.

    chunks   consecutive tokens of an image, the unit of reading: stripes (mapped), whole spans (streamed, in order)
    epoch    a seeded permutation of the chunks, or of the shards, whose chunks stay in order
    windows  groups of whole batches; a window's tokens are read together and permuted among themselves
    ranks    each has a contiguous part: of every window (mapped), or of the epoch and so of the shards (streamed)

Every selected token comes exactly once per epoch; the batches of an epoch differ in size by at most one token; all
ranks have equally many batches; batch k is a function of (seed, epoch, world size, k) alone.
"""

import dataclasses
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from saev.shards.selection import Spans

Order = Literal["stripes", "shards", "sequential"]
SECTION = 4096  # chunks between two stored token counts


class WindowPlan(NamedTuple):
    """Tokens to read for one window, in reading order, and the batch boundaries."""

    spans: Spans
    edges: Int64[np.ndarray, " batches_plus_1"]  # batch boundaries, counted in tokens of this window


class _Epoch(NamedTuple):
    """One epoch's order; 4 bytes per chunk, as large recordings have tens of millions."""

    number: int
    order: Int32[np.ndarray, " chunks"]
    before: Int64[np.ndarray, " sections"]  # tokens before every SECTION-th chunk


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """Batches and windows of any epoch over the given tokens; see the module's description.

    Args:
        spans: the selected tokens, sorted by image and position.
        batch_size: the largest batch of one rank; the epoch is cut into the fewest equal batches that respect it.
        window: tokens that one rank reads and mixes at a time.
        order: stripes (shuffled in chunks of `stripe` tokens), shards (shuffled by shard), sequential (not shuffled).
        stripe: tokens of an image that stay together; small stripes mix better, large ones are read faster.
        shard: the shard of each span, for order="shards".
    """

    spans: Spans
    batch_size: int
    window: int
    order: Order = "stripes"
    stripe: int = 32
    seed: int = 0
    world: int = 1
    shard: Int64[np.ndarray, " spans"] | None = None
    _cache: dict[str, _Epoch] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        if self.n_tokens < self.world:
            raise ValueError(
                f"the selection has {self.n_tokens} tokens for {self.world} processes: select more images or tokens."
            )
        assert self.order != "shards" or (self.shard is not None and (np.diff(self.shard) >= 0).all())

    @cached_property
    def n_tokens(self) -> int:
        """Tokens of one epoch, over all ranks."""
        return self.spans.n_tokens

    @property
    def n_batches(self) -> int:
        """Batches of one epoch, per rank."""
        # the second bound matters only for batches of one token: no rank gets an empty batch, some get two tokens
        return min(-(-self.n_tokens // (self.batch_size * self.world)), self.n_tokens // self.world)

    @property
    def largest_batch(self) -> int:
        """Tokens of the largest batch."""
        return -(-self.n_tokens // (self.n_batches * self.world))

    @property
    def batches_per_window(self) -> int:
        """Whole batches that fit a window (at least one)."""
        return max(1, self.window // self.batch_size)

    @property
    def n_windows(self) -> int:
        """Windows of one epoch, per rank."""
        return -(-self.n_batches // self.batches_per_window)

    def window_plan(self, epoch: int, window: int, rank: int = 0) -> WindowPlan:
        """The tokens that `rank` reads for its window number `window` of an epoch, in reading order."""
        edges = self._edges(window * self.batches_per_window, rank)
        spans = self._between(self._epoch(epoch), int(edges[0]), int(edges[-1]))
        if self.order == "stripes":  # a window is permuted afterwards, so read forward through the files
            order = np.lexsort((spans.start, spans.example))
            spans = Spans(*(field[order] for field in spans))
        return WindowPlan(spans, edges - edges[0])

    def tokens(self, step: int) -> int:
        """The number of tokens of batch `step` over all ranks."""
        first = step % self.n_batches // self.batches_per_window * self.batches_per_window
        edges = [self._edges(first, rank) for rank in range(self.world)]
        batch = step % self.n_batches - first
        return sum(int(of_rank[batch + 1] - of_rank[batch]) for of_rank in edges)

    def _edges(self, first: int, rank: int) -> Int64[np.ndarray, " batches_plus_1"]:
        """Batch boundaries of the rank's window that begins with batch `first`, in tokens of the epoch."""
        count = min(self.batches_per_window, self.n_batches - first)
        by_window = first * self.world + rank * count
        start = rank * self.n_batches + first if self.order == "shards" else by_window  # batches in linear order
        return np.arange(start, start + count + 1, dtype=np.int64) * self.n_tokens // (self.n_batches * self.world)

    def permutation(self, epoch: int, window: int, rank: int, n: int) -> Int32[np.ndarray, " n"]:
        """The order in which a window's tokens are put into batches."""
        order = np.arange(n, dtype=np.int32)
        if self.order != "sequential":
            np.random.default_rng((self.seed, epoch, window, rank, 1)).shuffle(order)
        return order

    @cached_property
    def _stripe(self) -> int:
        whole = int((self.spans.stop - self.spans.start).max())
        return self.stripe if self.order == "stripes" else whole

    @cached_property
    def _first_chunk(self) -> Int64[np.ndarray, " spans_plus_1"]:
        per_span = -(-(self.spans.stop - self.spans.start) // self._stripe)
        return np.concatenate([[0], np.cumsum(per_span)])

    def _chunks(self, ids: Int32[np.ndarray, " chunks"]) -> Spans:
        """The tokens of chunks given by number."""
        span = np.searchsorted(self._first_chunk, ids, "right") - 1
        start = self.spans.start[span] + (ids - self._first_chunk[span]) * self._stripe
        return Spans(self.spans.example[span], start, np.minimum(start + self._stripe, self.spans.stop[span]))

    def _epoch(self, number: int) -> _Epoch:
        epoch = self._cache.get("epoch")
        if epoch is None or epoch.number != number:
            epoch = self._cache["epoch"] = self._new_epoch(number)
        return epoch

    def _new_epoch(self, number: int) -> _Epoch:
        order = np.arange(self._first_chunk[-1], dtype=np.int32)
        rng = np.random.default_rng((self.seed, number))
        if self.order == "stripes":
            rng.shuffle(order)
        elif self.order == "shards":
            assert self.shard is not None
            rank = rng.permutation(int(self.shard.max()) + 1)
            order = np.argsort(rank[self.shard], kind="stable").astype(np.int32)
        return _Epoch(number, order, self._before(order))

    def _before(self, order: Int32[np.ndarray, " chunks"]) -> Int64[np.ndarray, " sections"]:
        sections = range(0, len(order), SECTION)
        if not ((self.spans.stop - self.spans.start) % self._stripe).any():  # all chunks have one size
            return np.array(sections, np.int64) * self._stripe
        sizes = [self._chunks(order[start : start + SECTION]).n_tokens for start in sections]
        return np.cumsum([0, *sizes[:-1]], dtype=np.int64)

    def _between(self, epoch: _Epoch, low: int, high: int) -> Spans:
        """Tokens low to high of the epoch, in its order."""
        section = int(np.searchsorted(epoch.before, low, "right")) - 1
        last = int(np.searchsorted(epoch.before, high, "left"))  # the first section that begins at `high` or later
        spans = self._chunks(epoch.order[section * SECTION : last * SECTION])
        lengths = spans.stop - spans.start
        ends = epoch.before[section] + np.cumsum(lengths)
        cut_low = np.clip(low - (ends - lengths), 0, lengths)
        cut_high = np.clip(ends - high, 0, lengths)
        spans = Spans(spans.example, spans.start + cut_low, spans.stop - cut_high)
        filled = spans.stop > spans.start
        return Spans(*(field[filled] for field in spans))
