"""Shuffled batches of tokens at memory speed: large ordered reads into two windows, one gather per batch.

    EpochPlan ──span──▶ window (read by one thread while the other window is drawn from) ──gather──▶ batches

The stream is a plain function of the number of batches consumed, so that number is all a checkpoint needs.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from saev.shards.plan import EpochPlan, Span
from saev.shards.reader import ActivationStore


class TokenStream:
    """Batches of one layer's tokens; all sizes in tokens.

    `batches(start)` yields {"acts": [batch, d_model] in the stored dtype, "example": int64 [batch],
    "token": int32 [batch], "step": int} for step = start, start + 1, ... through as many epochs as one asks for. A token
    is numbered within its image's stored tokens.
    """

    def __init__(
        self,
        store: ActivationStore,
        layer: int,
        batch_size: int,
        examples: Int64[np.ndarray, " images"] | None = None,
        tokens: str = "patch",
        seed: int = 0,
        shuffle: bool = True,
        window: int = 1 << 19,
        stripe: int = 32,
        rank: int = 0,
        world: int = 1,
    ):
        self.store, self.layer, self.rank = store, layer, rank
        self.offsets = store.offsets(layer)
        chosen = np.arange(len(self.offsets)) if examples is None else np.sort(examples)
        chosen = chosen[self.offsets[chosen, 2] > 0]
        start, stop = store.role_slice(tokens)
        stops = self.offsets[chosen, 2] if stop < 0 else np.full(len(chosen), stop)
        starts = np.full(len(chosen), start)
        self.plan = EpochPlan(chosen, starts, stops, batch_size, window, stripe, seed, shuffle, world)
        self.dtype = np.dtype(store.manifest.dtype)

    @property
    def n_tokens(self) -> int:
        """Tokens of one epoch, over all ranks."""
        return self.plan.n_tokens

    @property
    def n_batches(self) -> int:
        """Batches of one epoch, per rank."""
        return self.plan.n_batches

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
        """Batches start, start + 1, ... (stop excluded; for ever without one), the next window being read meanwhile."""
        per_window = self.plan.batches_per_window
        epoch, within = divmod(start, self.n_batches)
        window, skip = divmod(within, per_window)
        files = OpenFiles(self.store.shard_paths(self.layer))
        largest = per_window * -(-self.n_tokens // (self.n_batches * self.plan.world)) + 1
        largest = min(largest, self.n_tokens)
        buffers = [np.empty((largest, self.store.d_model), self.dtype) for _ in range(2)]
        step, turn = start, 0
        with ThreadPoolExecutor(1, "window") as pool:
            try:
                ahead = pool.submit(self._read, files, epoch, window, buffers[turn])
                while stop is None or step < stop:
                    acts, example, token, edges, order = ahead.result()
                    following = (epoch, window + 1) if window + 1 < self.plan.n_windows else (epoch + 1, 0)
                    if stop is None or step + len(edges) - 1 - skip < stop:
                        ahead = pool.submit(self._read, files, *following, buffers[1 - turn])
                    for low, high in zip(edges[skip:-1], edges[skip + 1 :], strict=True):
                        if stop is not None and step >= stop:
                            return
                        rows = order[low:high]
                        yield {
                            "acts": np.take(acts, rows, axis=0),
                            "example": example[rows],
                            "token": token[rows],
                            "step": step,
                        }
                        step += 1
                    (epoch, window), skip, turn = following, 0, 1 - turn
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                files.close()

    def _read(self, files: "OpenFiles", epoch: int, window: int, buffer: np.ndarray):
        span = self.plan.span(epoch, window, self.rank)
        lengths = span.stop - span.start
        n = int(span.edges[-1])
        self._fill(files, span, buffer[:n])
        example = np.repeat(span.example, lengths)
        first = np.cumsum(lengths) - lengths
        token = (np.arange(n) - np.repeat(first - span.start, lengths)).astype(np.int32)
        return buffer[:n], example, token, span.edges, self.plan.permutation(epoch, window, self.rank, n)

    def _fill(self, files: "OpenFiles", span: Span, buffer: np.ndarray) -> None:
        width = self.store.d_model * self.dtype.itemsize
        shards, offsets = self.offsets[span.example, 0], self.offsets[span.example, 1]
        starts = (offsets + span.start * width).tolist()
        sizes = ((span.stop - span.start) * width).tolist()
        target, at = buffer.view(np.uint8).reshape(-1).data, 0
        for shard, start, size in zip(shards.tolist(), starts, sizes, strict=True):
            got = os.preadv(files.get(shard), [target[at : at + size]], start)
            if got != size:
                path = self.store.shard_paths(self.layer)[shard]
                raise ValueError(
                    f"{path} ends at byte {start + got}: it was cut off while in use; restore it or record it again."
                )
            at += size


class OpenFiles:
    """File descriptors of a layer's shards, opened when needed; at most MOST at a time, as processes may have few."""

    MOST = 128

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self.open: dict[int, int] = {}  # in order of opening

    def get(self, shard: int) -> int:
        """The descriptor of a shard."""
        if shard not in self.open:
            if len(self.open) >= self.MOST:
                os.close(self.open.pop(next(iter(self.open))))
            self.open[shard] = os.open(self.paths[shard], os.O_RDONLY)
        return self.open[shard]

    def close(self) -> None:
        """Close what is open."""
        while self.open:
            os.close(self.open.popitem()[1])
