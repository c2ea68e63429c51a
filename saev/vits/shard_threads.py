"""Filling the shards of a recording: a thread per open shard opens it, appends its batches and commits it.

    start(0) append append ... end() start(1) append ...        the caller's thread
       |                        |       |
    thread 0: open, append ... commit   thread 1: open, append ...
So a shard is hashed, written to the disk and committed while the next ones are filled. Memory: `waiting` batches, and per
open shard and layer the two blocks of `saev.shards.layer_shard`.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from queue import SimpleQueue

from saev.shards.shard_writer import ShardWriter

OPEN_SHARDS = 3  # one that is filled, two that are finished: fsync of 128 MB can take longer than filling as much
Append = Callable[[ShardWriter], None]


class Interrupted(Exception):
    """Ends a shard whose last batch will not come: what `save_partial` saved of it is kept."""


class ShardThreads:
    """Fills shards one after the other, at most OPEN_SHARDS at a time.

    `open_shard` is `RecordingWriter.shard`; at most `waiting` batches are not appended yet.

    An error in a thread is raised by a later call or at the end of the `with` block, the oldest shard's first. All threads
    have ended after the block: complete shards are committed, also after an error in it.
    """

    def __init__(self, open_shard: Callable[[int], AbstractContextManager[ShardWriter]], waiting: int):
        self.open_shard, self.waiting = open_shard, waiting
        self.threads = ThreadPoolExecutor(OPEN_SHARDS, thread_name_prefix="shard")
        self.shards: deque[Future[None]] = deque()
        self.batches: deque[tuple[Future[None], Future[None]]] = deque()  # appended, and the shard of it
        self.calls: SimpleQueue[tuple[Append, Future[None]] | Exception | None] = SimpleQueue()

    def start(self, shard: int) -> None:
        """Open a shard, once the oldest of OPEN_SHARDS is committed."""
        if len(self.shards) == OPEN_SHARDS:
            self.shards.popleft().result()
        self.calls = SimpleQueue()
        self.shards.append(self.threads.submit(self._fill, shard, self.calls))

    def append(self, call: Append) -> None:
        """Run `call(shard)` in the thread of the shard started last, once fewer than `waiting` calls are ahead of it."""
        while len(self.batches) >= self.waiting:
            done, shard = self.batches.popleft()
            wait([done, shard], return_when=FIRST_COMPLETED)
            if not done.done():
                shard.result()
        self.batches.append((done := Future(), self.shards[-1]))
        self.calls.put((call, done))

    def end(self) -> None:
        """Commit the shard started last after its last call."""
        self.calls.put(None)

    def _fill(self, shard: int, calls: SimpleQueue) -> None:
        with self.open_shard(shard) as out:
            while (item := calls.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                call, done = item
                call(out)
                done.set_result(None)

    def __enter__(self) -> "ShardThreads":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                while self.shards:
                    self.shards.popleft().result()
        finally:
            self.calls.put(Interrupted())  # not read by a shard that has ended
            self.threads.shutdown(wait=True)
