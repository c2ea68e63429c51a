"""The order of a shuffled stream as plain arithmetic: which tokens form batch k, for any k, without reading anything.

    chunks   stripes of `stripe` consecutive tokens of an image: the unit of reading
    epoch    a seeded permutation of all chunks; token position p lies in the chunk found by searchsorted
    windows  runs of whole batches; a window's tokens are read together and permuted among themselves
    ranks    within a window each rank owns a contiguous part, so ranks read different bytes

Every selected token comes exactly once per epoch; all batches of an epoch differ in size by at most one token and all
ranks take equally many; batch k is a function of (seed, epoch, world size, k) alone.
"""

import dataclasses

import numpy as np
from jaxtyping import Int64


@dataclasses.dataclass(frozen=True)
class Span:
    """Tokens to read for one window: chunk i is tokens [start[i], stop[i]) of image example[i]."""

    example: Int64[np.ndarray, " chunks"]
    start: Int64[np.ndarray, " chunks"]
    stop: Int64[np.ndarray, " chunks"]
    edges: Int64[np.ndarray, " batches_plus_1"]  # batch boundaries, counted in tokens of this window


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """Batches and windows of any epoch over the chunks given; see the module's description.

    Args:
        example, start, stop: the selected tokens, one contiguous run per image.
        batch_size: the largest batch of one rank; the epoch is cut into the fewest equal batches that respect it.
        window: tokens that one rank reads and mixes at a time.
        stripe: tokens of an image that stay together; small stripes mix better, large ones read longer runs.
    """

    example: Int64[np.ndarray, " images"]
    start: Int64[np.ndarray, " images"]
    stop: Int64[np.ndarray, " images"]
    batch_size: int
    window: int
    stripe: int
    seed: int
    shuffle: bool = True
    world: int = 1
    _kept: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)  # one epoch's chunks at a time

    def __post_init__(self):
        if self.n_tokens < self.world:
            raise ValueError(
                f"the selection has {self.n_tokens} tokens for {self.world} processes: select more images or tokens."
            )

    @property
    def n_tokens(self) -> int:
        """Tokens of one epoch, over all ranks."""
        return int((self.stop - self.start).sum())

    @property
    def n_batches(self) -> int:
        """Batches of one epoch, per rank."""
        # the second bound matters for batches of one token alone: no process gets an empty one, some get two tokens
        return min(-(-self.n_tokens // (self.batch_size * self.world)), self.n_tokens // self.world)

    @property
    def batches_per_window(self) -> int:
        """Whole batches that fit a window (at least one)."""
        return max(1, self.window // self.batch_size)

    @property
    def n_windows(self) -> int:
        """Windows of one epoch, per rank."""
        return -(-self.n_batches // self.batches_per_window)

    def chunks(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(example, start, stop, tokens before) of every chunk in the order of this epoch."""
        if self._kept.get("epoch") != epoch:
            self._kept.update(epoch=epoch, chunks=self._cut(epoch))
        return self._kept["chunks"]

    def _cut(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        stripe = self.stripe if self.shuffle else int((self.stop - self.start).max())  # in order: whole images
        per_image = -(-(self.stop - self.start) // stripe)
        image = np.repeat(np.arange(len(self.example)), per_image)
        nth = np.arange(len(image)) - np.repeat(np.cumsum(per_image) - per_image, per_image)
        start = self.start[image] + nth * stripe
        stop = np.minimum(start + stripe, self.stop[image])
        example = self.example[image]
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(image))
            example, start, stop = example[order], start[order], stop[order]
        before = np.concatenate([[0], np.cumsum(stop - start)[:-1]])
        return example, start, stop, before

    def span(self, epoch: int, window: int, rank: int = 0) -> Span:
        """What `rank` reads for its window number `window` of an epoch, in reading order."""
        first = window * self.batches_per_window
        count = min(self.batches_per_window, self.n_batches - first)
        at = first * self.world + rank * count  # batches in linear order: by window, then rank
        total = self.n_batches * self.world
        edges = np.arange(at, at + count + 1, dtype=np.int64) * self.n_tokens // total
        example, start, stop, before = self.chunks(epoch)
        low = int(np.searchsorted(before, edges[0], "right")) - 1
        high = int(np.searchsorted(before, edges[-1], "left"))
        example, start, stop, before = (a[low:high].copy() for a in (example, start, stop, before))
        start[0] += edges[0] - before[0]
        stop[-1] = start[-1] + edges[-1] - max(before[-1], edges[0])
        if self.shuffle:  # their order inside a window is lost anyway: read forward through the files
            order = np.lexsort((start, example))
            example, start, stop = example[order], start[order], stop[order]
        return Span(example, start, stop, edges - edges[0])

    def permutation(self, epoch: int, window: int, rank: int, n: int) -> Int64[np.ndarray, " n"]:
        """The order in which a window's tokens leave it."""
        if not self.shuffle:
            return np.arange(n)
        return np.random.default_rng((self.seed, epoch, window, rank, 1)).permutation(n)
