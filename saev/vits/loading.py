"""Two small pieces of concurrency: read ahead with threads, and write behind with one.

Threads, not processes: PIL decodes and resizes outside Python's lock, and nothing has to be pickled or copied.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

MOST_WORKERS = 16
T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """Decoding threads where nobody says how many: one for each core that this process may use, 16 at most.

    They sleep while enough is loaded ahead, so on a CPU they take from the forward passes what decoding costs and no
    more; a GPU needs all the cores to be fed. torch keeps its own threads: the forward pass is the larger part.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: a Slurm job has fewer cores than the machine
    return min(MOST_WORKERS, len(affinity(0)) if affinity else os.cpu_count() or 1)


def load_ahead(load: Callable[[T], R], items: Iterable[T], n_workers: int, ahead: int) -> Generator[R, None, None]:
    """`load(item)` of each item, in order, with up to `ahead` of them in the making in `n_workers` threads."""
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="load")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(load, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class WriteBehind:
    """Runs one call at a time in a thread; the next waits for it, and so does the end of the `with` block.

    An error of a call is raised by the next one, or at the end; after an error in the block the call in progress
    is still waited for, so that what it writes to can be closed.
    """

    def __init__(self):
        self.pool, self.last = ThreadPoolExecutor(1, thread_name_prefix="write"), None

    def do(self, call: Callable[..., None], *args: Any) -> None:
        """Start `call(*args)` as soon as the one before is done."""
        self._settle()
        self.last = self.pool.submit(call, *args)

    def _settle(self) -> None:
        last, self.last = self.last, None
        if last is not None:
            last.result()

    def __enter__(self) -> "WriteBehind":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._settle()
        finally:
            self.pool.shutdown(wait=True)
