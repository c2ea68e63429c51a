"""Reading ahead with several threads, and writing behind with one.

Threads, not processes: PIL decodes and resizes without the GIL, and nothing has to be pickled or copied.
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
    """The default number of decoding threads: one for each core that this process may use, at most 16.

    They sleep while enough images are loaded ahead, so on a CPU they slow the forward passes by the cost of decoding
    only; a GPU needs all cores for decoding. torch's own threads stay: the forward pass is the larger part.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: a Slurm job has fewer cores than the machine
    return min(MOST_WORKERS, len(affinity(0)) if affinity else os.cpu_count() or 1)


def load_ahead(load: Callable[[T], R], items: Iterable[T], n_workers: int, ahead: int) -> Generator[R, None, None]:
    """`load(item)` of each item, in order; up to `ahead` calls are queued or running in `n_workers` threads."""
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
    """Runs one call at a time in a thread; the next call and the end of the `with` block wait for it.

    An error of a call is raised by the next call or at the end. After an error in the block the running call is waited
    for as well, so that the file it writes can be closed.
    """

    def __init__(self):
        self.pool, self.last = ThreadPoolExecutor(1, thread_name_prefix="write"), None

    def do(self, call: Callable[..., None], *args: Any) -> None:
        """Wait for the previous call, then start `call(*args)`."""
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
