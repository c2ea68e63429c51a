"""The order of a stream as plain arithmetic: which tokens form batch k, for any k, without reading anything.

    chunks   consecutive tokens of an image, the unit of reading: stripes (mapped), whole runs (streamed, in order)
    epoch    a seeded permutation of the chunks, or of the shards whose chunks stay in order
    windows  runs of whole batches; a window's tokens are read together and permuted among themselves
    ranks    each has a contiguous part: of every window (mapped), or of the epoch (streamed, so of the shards)

Every selected token comes exactly once per epoch; all batches of an epoch differ in size by at most one token and all
ranks take equally many; batch k is a function of (seed, epoch, world size, k) alone.
"""

import dataclasses
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from saev.shards.selection import Runs

Order = Literal["stripes", "shards", "sequential"]
SECTION = 4096  # chunks between two remembered token counts


class Span(NamedTuple):
    """Tokens to read for one window, in reading order, and where its batches end."""

    runs: Runs
    edges: Int64[np.ndarray, " batches_plus_1"]  # batch boundaries, counted in tokens of this window


class _Epoch(NamedTuple):
    """One epoch's order; 4 bytes a chunk, as large datasets have tens of millions."""

    number: int
    order: Int32[np.ndarray, " chunks"]
    before: Int64[np.ndarray, " sections"]  # tokens before every SECTION-th chunk


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """Batches and windows of any epoch over the tokens given; see the module's description.

    Args:
        runs: the selected tokens, sorted by image and position.
        batch_size: the largest batch of one rank; the epoch is cut into the fewest equal batches that respect it.
        window: tokens that one rank reads and mixes at a time.
        order: stripes (mixed by chunks of `stripe` tokens), shards (mixed by shard), sequential (not shuffled).
        stripe: tokens of an image that stay together; small stripes mix better, large ones read longer runs.
        shard: the shard of each run; for order="shards".
    """

    runs: Runs
    batch_size: int
    window: int
    order: Order = "stripes"
    stripe: int = 32
    seed: int = 0
    world: int = 1
    shard: Int64[np.ndarray, " runs"] | None = None
    _kept: dict[str, _Epoch] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        if self.n_tokens < self.world:
            raise ValueError(
                f"the selection has {self.n_tokens} tokens for {self.world} processes: select more images or tokens."
            )
        assert self.order != "shards" or (self.shard is not None and (np.diff(self.shard) >= 0).all())

    @cached_property
    def n_tokens(self) -> int:
        """Tokens of one epoch, over all ranks."""
        return self.runs.n_tokens

    @property
    def n_batches(self) -> int:
        """Batches of one epoch, per rank."""
        # the second bound matters for batches of one token alone: no process gets an empty one, some get two tokens
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

    def span(self, epoch: int, window: int, rank: int = 0) -> Span:
        """What `rank` reads for its window number `window` of an epoch, in reading order."""
        edges = self._edges(window * self.batches_per_window, rank)
        runs = self._between(self._epoch(epoch), int(edges[0]), int(edges[-1]))
        if self.order == "stripes":  # their order inside a window is lost anyway: read forward through the files
            order = np.lexsort((runs.start, runs.example))
            runs = Runs(*(field[order] for field in runs))
        return Span(runs, edges - edges[0])

    def tokens(self, step: int) -> int:
        """The tokens of batch `step` over all ranks."""
        first = step % self.n_batches // self.batches_per_window * self.batches_per_window
        edges = [self._edges(first, rank) for rank in range(self.world)]
        at = step % self.n_batches - first
        return sum(int(of[at + 1] - of[at]) for of in edges)

    def _edges(self, first: int, rank: int) -> Int64[np.ndarray, " batches_plus_1"]:
        """Where the batches of a rank's window that begins with batch `first` lie in the epoch, in tokens."""
        count = min(self.batches_per_window, self.n_batches - first)
        by_window = first * self.world + rank * count
        at = rank * self.n_batches + first if self.order == "shards" else by_window  # batches in linear order
        return np.arange(at, at + count + 1, dtype=np.int64) * self.n_tokens // (self.n_batches * self.world)

    def permutation(self, epoch: int, window: int, rank: int, n: int) -> Int32[np.ndarray, " n"]:
        """The order in which a window's tokens leave it."""
        order = np.arange(n, dtype=np.int32)
        if self.order != "sequential":
            np.random.default_rng((self.seed, epoch, window, rank, 1)).shuffle(order)
        return order

    @cached_property
    def _stripe(self) -> int:
        whole = int((self.runs.stop - self.runs.start).max())
        return self.stripe if self.order == "stripes" else whole

    @cached_property
    def _first_chunk(self) -> Int64[np.ndarray, " runs_plus_1"]:
        per_run = -(-(self.runs.stop - self.runs.start) // self._stripe)
        return np.concatenate([[0], np.cumsum(per_run)])

    def _chunks(self, ids: Int32[np.ndarray, " chunks"]) -> Runs:
        """The tokens of chunks given by number."""
        run = np.searchsorted(self._first_chunk, ids, "right") - 1
        start = self.runs.start[run] + (ids - self._first_chunk[run]) * self._stripe
        return Runs(self.runs.example[run], start, np.minimum(start + self._stripe, self.runs.stop[run]))

    def _epoch(self, number: int) -> _Epoch:
        kept = self._kept.get("epoch")
        if kept is None or kept.number != number:
            kept = self._kept["epoch"] = self._make(number)
        return kept

    def _make(self, number: int) -> _Epoch:
        order = np.arange(self._first_chunk[-1], dtype=np.int32)
        rng = np.random.default_rng((self.seed, number))
        if self.order == "stripes":
            rng.shuffle(order)
        elif self.order == "shards":
            assert self.shard is not None
            place = rng.permutation(int(self.shard.max()) + 1)
            order = np.argsort(place[self.shard], kind="stable").astype(np.int32)
        return _Epoch(number, order, self._before(order))

    def _before(self, order: Int32[np.ndarray, " chunks"]) -> Int64[np.ndarray, " sections"]:
        sections = range(0, len(order), SECTION)
        if not ((self.runs.stop - self.runs.start) % self._stripe).any():  # all chunks of one size: nothing to add up
            return np.array(sections, np.int64) * self._stripe
        sizes = [self._chunks(order[at : at + SECTION]).n_tokens for at in sections]
        return np.cumsum([0, *sizes[:-1]], dtype=np.int64)

    def _between(self, epoch: _Epoch, low: int, high: int) -> Runs:
        """Tokens low to high of the epoch, counted in its order."""
        section = int(np.searchsorted(epoch.before, low, "right")) - 1
        last = int(np.searchsorted(epoch.before, high, "left"))  # the first section that begins at `high` or later
        runs = self._chunks(epoch.order[section * SECTION : last * SECTION])
        lengths = runs.stop - runs.start
        ends = epoch.before[section] + np.cumsum(lengths)
        cut_low = np.clip(low - (ends - lengths), 0, lengths)
        cut_high = np.clip(ends - high, 0, lengths)
        runs = Runs(runs.example, runs.start + cut_low, runs.stop - cut_high)
        kept = runs.stop > runs.start
        return Runs(*(field[kept] for field in runs))
