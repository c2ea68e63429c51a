"""Reading a window from local shards: one read per chunk, in file order, directly into the window's rows."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped

from saev.shards.remote import Closed
from saev.shards.selection import Spans


class MappedRows:
    """Reads spans of tokens at the offsets of the index, in `readers` threads (several help on cold or remote disks)."""

    def __init__(
        self,
        paths: list[Path],
        offsets: Int64[np.ndarray, "n_examples 3"],
        row_bytes: int,
        closing: Callable[[], bool],
        readers: int = 1,
    ):
        self.paths, self.offsets, self.row_bytes, self.closing = paths, offsets, row_bytes, closing
        self.files = [OpenFiles(paths) for _ in range(readers)]
        self.pool = ThreadPoolExecutor(readers, "read") if readers > 1 else None

    def fill(self, spans: Spans, rows: Shaped[np.ndarray, "tokens width"]) -> None:
        """Read the spans, one after the other, into `rows`; ValueError naming the file where one is cut off."""
        if self.pool is None:
            return self._fill(self.files[0], spans, rows)
        cuts = np.linspace(0, len(spans.example), len(self.files) + 1).astype(int)
        ends = np.concatenate([[0], np.cumsum(spans.stop - spans.start)])[cuts]
        parts = [Spans(*(field[a:b] for field in spans)) for a, b in pairwise(cuts)]
        targets = [rows[a:b] for a, b in pairwise(ends)]
        list(self.pool.map(self._fill, self.files, parts, targets))

    def _fill(self, files: "OpenFiles", spans: Spans, rows: np.ndarray) -> None:
        shards, offsets = self.offsets[spans.example, 0], self.offsets[spans.example, 1]
        starts = (offsets + spans.start * self.row_bytes).tolist()
        sizes = ((spans.stop - spans.start) * self.row_bytes).tolist()
        target, at = rows.view(np.uint8).reshape(-1).data, 0
        for shard, start, size in zip(shards.tolist(), starts, sizes, strict=True):
            if self.closing():
                raise Closed
            got = os.preadv(files.get(shard), [target[at : at + size]], start)
            if got != size:
                raise ValueError(
                    f"{self.paths[shard]} ends at byte {start + got}: it was cut off while in use; restore it or record it again."
                )
            at += size

    def close(self) -> None:
        """Close all files and end the threads."""
        if self.pool is not None:
            self.pool.shutdown()
        for files in self.files:
            files.close()


class OpenFiles:
    """File descriptors of a layer's shards, opened when needed; at most MOST at a time, as their number is limited."""

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
        """Close all descriptors."""
        while self.open:
            os.close(self.open.popitem()[1])
