"""Loading ahead with several threads.

Threads, not processes: PIL decodes and resizes without the GIL, and nothing has to be pickled or copied. Of the 1.3 ms of a photo of
256 pixels they hold it for 0.18: so they stay below 5,000 images/s on any number of cores (see decoding_processes.py).
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

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
