"""Filling a window from shards that can only be read from their beginning: over http, through a command, off a tape.

shard URLs ──webdataset──▶ tar members in order ──▶ the rows wanted, to where they belong
"""

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from saev.shards.index import member_name
from saev.shards.mapped import Closed
from saev.shards.selection import Runs

SUFFIX = ".npy"
# NumPy reads a header by `ast`, which Python 3.11 cannot do in two threads at once (SystemError: AST constructor recursion
# depth mismatch; CPython issue 106905).
PARSING = threading.Lock()


class StreamedRows:
    """Reads runs of tokens that come in the order of the shards; `readers` shards at a time.

    Args:
        urls: the shards.
        shard, place: of each image, the number of its shard and its place among the shard's members.
        tokens: stored tokens of each image.
    """

    def __init__(
        self,
        urls: Sequence[str],
        shard: Int64[np.ndarray, " n_examples"],
        place: Int64[np.ndarray, " n_examples"],
        tokens: Int64[np.ndarray, " n_examples"],
        closing: Callable[[], bool],
        readers: int = 1,
    ):
        self.urls, self.shard, self.place, self.tokens, self.closing = urls, shard, place, tokens, closing
        self.open: dict[int, Members] = {}  # shards read in part: the next window goes on there
        self.pool = ThreadPoolExecutor(readers, "read")

    def fill(self, runs: Runs, rows: Shaped[np.ndarray, "tokens width"]) -> None:
        """Read the runs into `rows`, one after the other; ValueError naming the shard where it is not what it should be."""
        shards = self.shard[runs.example]
        cuts = np.flatnonzero(np.diff(shards, prepend=-1, append=-1))
        ends = np.concatenate([[0], np.cumsum(runs.stop - runs.start)])[cuts]
        jobs = [
            self.pool.submit(self._fill, int(shards[a]), Runs(*(field[a:b] for field in runs)), rows[low:high])
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

    def _fill(self, shard: int, runs: Runs, rows: np.ndarray) -> None:
        members, at, image, acts = self.open.get(shard), 0, -1, rows[:0]
        for example, start, stop in zip(*(field.tolist() for field in runs), strict=True):
            if self.closing():
                raise Closed
            if example != image:
                place = int(self.place[example])
                if members is not None and members.at > place + 1:  # the next epoch's turn
                    members.close()
                    members = None
                if members is None:
                    members = self.open[shard] = Members(self.urls[shard], rows.shape[1], rows.dtype)
                image, acts = example, members.array(place, example, int(self.tokens[example]))
            rows[at : at + stop - start] = acts[start:stop]
            at += stop - start

    def interrupt(self) -> None:
        """End reads that wait for the other side; the thread that waits gets an error."""
        for members in list(self.open.values()):
            members.interrupt()

    def close(self) -> None:
        """Close what is open, once nobody reads any more."""
        self.pool.shutdown(cancel_futures=True)
        while self.open:
            self.open.popitem()[1].close()


class Members:
    """The arrays of one shard in order, and how far it has been read."""

    def __init__(self, url: str, width: int, dtype: np.dtype):
        self.url, self.width, self.dtype = url, width, dtype
        self.at = 0  # the next member
        self.stream: Any = None
        self.members = self._members()
        self.last: tuple[str, bytes] = ("", b"")  # a window may end, and the next one begin, within an image

    def _members(self) -> Iterator[tuple[str, bytes]]:
        from webdataset.gopen import gopen  # slow to import
        from webdataset.tariterators import tar_file_iterator

        self.stream = gopen(self.url)
        for member in tar_file_iterator(self.stream, select_files=lambda name: name.endswith(SUFFIX)):
            yield member["fname"], member["data"]

    def array(self, place: int, example: int, tokens: int) -> Shaped[np.ndarray, "tokens width"]:
        """The array of image `example`, member number `place`; ValueError where it is not there or is another.

        `place` is that of the last call, or lies behind it.
        """
        try:
            while self.at <= place:
                self.last = next(self.members)
                self.at += 1
        except StopIteration:
            raise ValueError(
                f"{self.url} ends after {self.at} images, it should hold more than {place}: {REMEDY}"
            ) from None
        except Exception as error:  # tarfile, curl, a shell command: each fails in its own way
            raise ValueError(f"{self.url} cannot be read beyond image {self.at} ({error}): {REMEDY}") from error
        name, data = self.last
        if name != member_name(example):
            raise ValueError(f"{self.url} holds {name} in place of {member_name(example)}: {REMEDY}")
        return parse(data, (tokens, self.width), self.dtype, f"{self.url}, {name}")

    def interrupt(self) -> None:
        """End the process that delivers the shard, if there is one."""
        process = getattr(self.stream, "proc", None)
        if process is not None and process.poll() is None:
            process.terminate()

    def close(self) -> None:
        """Stop reading, also where the other side is silent."""
        self.interrupt()
        if self.stream is not None:
            with suppress(OSError):  # a command whose output is cut off has failed, says webdataset
                self.stream.close()


REMEDY = "restore it, copy it again or record it again."


def parse(data: bytes, shape: tuple[int, int], dtype: np.dtype, where: str) -> Shaped[np.ndarray, "tokens width"]:
    """The array of an .npy file in memory, without a copy; ValueError unless it has the shape and dtype it should have."""
    try:
        found, fortran, kind, start = _header(data[:512])
    except ValueError as error:
        raise ValueError(f"{where}: not an .npy array ({error}): {REMEDY}") from error
    if found != shape or kind != dtype or fortran:
        raise ValueError(f"{where} holds {kind} {found}, the manifest says {dtype} {shape}: {REMEDY}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape)


def _header(beginning: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether columns come first, dtype, and where the numbers begin."""
    head = io.BytesIO(beginning)
    np.lib.format.read_magic(head)
    with PARSING:
        shape, fortran, kind = np.lib.format.read_array_header_1_0(head)
    return shape, fortran, kind, head.tell()
