"""Reading a window from shards that can only be read from their beginning: over http, through a command, off a tape.

shard URLs ──webdataset──▶ tar entries in order ──▶ the selected rows, copied into the window
"""

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from saev.shards.index import entry_name, read_header
from saev.shards.mapped import Closed
from saev.shards.selection import Spans

SUFFIX = ".npy"
# NumPy parses a header with `ast`, which Python 3.11 cannot do in two threads at once (SystemError: AST constructor
# recursion depth mismatch; CPython issue 106905).
PARSING = threading.Lock()
REMEDY = "restore it, copy it again or record it again."


class StreamedRows:
    """Reads spans of tokens given in the order of the shards; `readers` shards at a time.

    Args:
        urls: the shards.
        shard, entry: of each image, the number of its shard and of its entry there.
        tokens: stored tokens of each image.
    """

    def __init__(
        self,
        urls: Sequence[str],
        shard: Int64[np.ndarray, " n_examples"],
        entry: Int64[np.ndarray, " n_examples"],
        tokens: Int64[np.ndarray, " n_examples"],
        closing: Callable[[], bool],
        readers: int = 1,
    ):
        self.urls, self.shard, self.entry, self.tokens, self.closing = urls, shard, entry, tokens, closing
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
                    entries = self.open[shard] = ShardEntries(self.urls[shard], rows.shape[1], rows.dtype)
                image, acts = example, entries.array(number, example, int(self.tokens[example]))
            rows[at : at + stop - start] = acts[start:stop]
            at += stop - start

    def interrupt(self) -> None:
        """Abort pending reads; the reading threads get an error."""
        for entries in list(self.open.values()):
            entries.interrupt()

    def close(self) -> None:
        """Wait for the reading threads and close all shards."""
        self.pool.shutdown(cancel_futures=True)
        while self.open:
            self.open.popitem()[1].close()


class ShardEntries:
    """Reads the arrays of one shard in order."""

    def __init__(self, url: str, width: int, dtype: np.dtype):
        self.url, self.width, self.dtype = url, width, dtype
        self.next = 0  # number of the next entry
        self.stream: Any = None
        self.entries = self._entries()
        self.last: tuple[str, bytes] = ("", b"")  # a window may end, and the next one begin, within an image

    def _entries(self) -> Iterator[tuple[str, bytes]]:
        from webdataset.gopen import gopen  # slow to import
        from webdataset.tariterators import tar_file_iterator

        self.stream = gopen(self.url)
        for entry in tar_file_iterator(self.stream, select_files=lambda name: name.endswith(SUFFIX)):
            yield entry["fname"], entry["data"]

    def array(self, number: int, example: int, tokens: int) -> Shaped[np.ndarray, "tokens width"]:
        """The array of image `example`, entry `number` of the tar; ValueError where it is missing or another image's.

        `number` never decreases from call to call.
        """
        try:
            while self.next <= number:
                self.last = next(self.entries)
                self.next += 1
        except StopIteration:
            raise ValueError(
                f"{self.url} ends after {self.next} images, it should hold more than {number}: {REMEDY}"
            ) from None
        except Exception as error:  # tarfile, curl and shell commands raise different errors
            raise ValueError(f"{self.url} cannot be read beyond image {self.next} ({error}): {REMEDY}") from error
        name, data = self.last
        if name != entry_name(example):
            raise ValueError(f"{self.url} holds {name} in place of {entry_name(example)}: {REMEDY}")
        return parse(data, (tokens, self.width), self.dtype, f"{self.url}, {name}")

    def interrupt(self) -> None:
        """Terminate the command that delivers the shard, if there is one."""
        process = getattr(self.stream, "proc", None)
        if process is not None and process.poll() is None:
            process.terminate()

    def close(self) -> None:
        """Stop reading, also from a source that does not answer."""
        self.interrupt()
        if self.stream is not None:
            with suppress(OSError):  # webdataset raises it for a command whose output was cut off
                self.stream.close()


def parse(data: bytes, shape: tuple[int, int], dtype: np.dtype, where: str) -> Shaped[np.ndarray, "tokens width"]:
    """The array of an .npy file in memory, without a copy; ValueError unless it has this shape and dtype."""
    try:
        with PARSING:
            stored_shape, stored_dtype, start = read_header(io.BytesIO(data[:512]))
    except ValueError as error:
        raise ValueError(f"{where}: not an .npy array ({error}): {REMEDY}") from error
    if stored_shape != shape or stored_dtype != dtype:
        raise ValueError(f"{where} holds {stored_dtype} {stored_shape}, the manifest says {dtype} {shape}: {REMEDY}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape)
