"""Reading a window from shards that can only be read from their beginning: over http, through a command, off a tape.

shard addresses ──Source──▶ tar entries in order ──▶ the selected rows, copied into the window
"""

import hashlib
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from saev.shards import tar
from saev.shards.index import entry_name, read_header
from saev.shards.remote import RETRY_S, Closed, Source
from saev.shards.selection import Spans

# NumPy parses a header with `ast`, which Python 3.11 cannot do in two threads at once (SystemError: AST constructor
# recursion depth mismatch; CPython issue 106905).
PARSING = threading.Lock()
REMEDY = "restore it, copy it again or record it again."


class StreamedRows:
    """Reads spans of tokens given in the order of the shards; `readers` shards at a time.

    Args:
        urls: the shards' addresses.
        shards: the shards' lines of the manifest.
        shard, entry: of each image, the number of its shard and of its entry there.
        tokens: stored tokens of each image.
        retry_s: seconds after which an address that fails or is silent is given up.
    """

    def __init__(
        self,
        urls: Sequence[str],
        shards: Sequence[Mapping[str, Any]],
        shard: Int64[np.ndarray, " n_examples"],
        entry: Int64[np.ndarray, " n_examples"],
        tokens: Int64[np.ndarray, " n_examples"],
        closing: Callable[[], bool],
        readers: int = 1,
        retry_s: float = RETRY_S,
    ):
        self.urls, self.shards, self.shard, self.entry, self.tokens = urls, shards, shard, entry, tokens
        self.closing, self.retry_s = closing, retry_s
        self.open: dict[int, ShardEntries] = {}  # partly read shards: the next window continues there
        self.pool = ThreadPoolExecutor(readers, "read")

    def fill(self, spans: Spans, rows: Shaped[np.ndarray, "tokens width"]) -> None:
        """Read the spans into `rows`, one after the other; ValueError naming a shard with unexpected contents."""
        shards = self.shard[spans.example]
        cuts = np.flatnonzero(np.diff(shards, prepend=-1, append=-1))
        ends = np.concatenate([[0], np.cumsum(spans.stop - spans.start)])[cuts]
        jobs = [
            self.pool.submit(self._fill, int(shards[a]), Spans(*(field[a:b] for field in spans)), rows[low:high])
            for a, b, low, high in zip(cuts[:-1], cuts[1:], ends[:-1], ends[1:], strict=True)
        ]
        try:
            for job in jobs:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
        for shard in [s for s in self.open if s != shards[-1]]:
            self.open.pop(shard).close()

    def _fill(self, shard: int, spans: Spans, rows: np.ndarray) -> None:
        entries, at, image, acts = self.open.get(shard), 0, -1, rows[:0]
        for example, start, stop in zip(*(field.tolist() for field in spans), strict=True):
            if self.closing():
                raise Closed
            if example != image:
                number = int(self.entry[example])
                if entries is not None and entries.next > number + 1:  # a new epoch begins
                    entries.close()
                    entries = None
                if entries is None:
                    source = Source(self.urls[shard], self.retry_s, self.closing)
                    entries = self.open[shard] = ShardEntries(source, self.shards[shard], rows.shape[1], rows.dtype)
                image, acts = example, entries.array(number, example, int(self.tokens[example]))
            rows[at : at + stop - start] = acts[start:stop]
            at += stop - start

    def close(self) -> None:
        """Wait for the reading threads, which `closing` has ended, and close all shards."""
        self.pool.shutdown(cancel_futures=True)
        while self.open:
            self.open.popitem()[1].close()


class ShardEntries:
    """Reads the arrays of one shard in order, and compares its sha256 after the last one."""

    def __init__(self, source: Source, shard: Mapping[str, Any], width: int, dtype: np.dtype):
        self.source, self.shard, self.width, self.dtype = source, shard, width, dtype
        self.next = 0  # number of the next entry
        self.sha = hashlib.sha256()
        self.last: tuple[str, bytes] = ("", b"")  # a window may end, and the next one begin, within an image

    def array(self, number: int, example: int, tokens: int) -> Shaped[np.ndarray, "tokens width"]:
        """The array of image `example`, entry `number` of the tar; ValueError where it is missing or another image's.

        `number` never decreases from call to call.
        """
        while self.next <= number:
            self.last = self._entry()
            self.next += 1
            if self.next == self.shard["examples"]:
                self._check_whole()
        name, data = self.last
        if name != entry_name(example):
            raise ValueError(f"{self.source.url} holds {name} in place of {entry_name(example)}: {REMEDY}")
        return parse(data, (tokens, self.width), self.dtype, f"{self.source.url}, {name}")

    def _entry(self) -> tuple[str, bytes]:
        block = self._read(tar.BLOCK)
        try:
            name, size = tar.parse_header(block)
        except ValueError as error:
            raise ValueError(f"{self.source.url}: {error} at byte {self.source.at - tar.BLOCK}: {REMEDY}") from error
        return name, self._read(size + len(tar.padding(size)))

    def _read(self, n: int) -> bytes:
        data = self.source.read(n)
        if len(data) < n:
            raise ValueError(
                f"{self.source.url} ends at byte {self.source.at}, within image {self.next} of {self.shard['examples']}, the "
                f"manifest says {self.shard['bytes']} bytes: it is truncated or has changed; {REMEDY}"
            )
        self.sha.update(data)
        return data

    def _check_whole(self) -> None:
        self.sha.update(self.source.read(len(tar.END) + 1))  # and a byte more if there is one, which changes the hash
        if self.sha.hexdigest() != self.shard["sha256"]:
            raise ValueError(f"{self.source.url} differs from what was recorded (sha256): {REMEDY}")

    def close(self) -> None:
        """Stop reading."""
        self.source.close()


def parse(data: bytes, shape: tuple[int, int], dtype: np.dtype, where: str) -> Shaped[np.ndarray, "tokens width"]:
    """The array of an .npy file in memory, without a copy; ValueError unless it has this shape and dtype."""
    try:
        with PARSING:
            stored_shape, stored_dtype, start = read_header(io.BytesIO(data[:512]))
    except ValueError as error:
        raise ValueError(f"{where}: not an .npy array ({error}): {REMEDY}") from error
    if stored_shape != shape or stored_dtype != dtype:
        raise ValueError(f"{where} holds {stored_dtype} {stored_shape}, the manifest says {dtype} {shape}: {REMEDY}")
    return np.frombuffer(data, dtype, shape[0] * shape[1], start).reshape(shape)
