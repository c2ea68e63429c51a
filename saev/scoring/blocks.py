"""Going through all prototypes in blocks that bound the memory, on all processors."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int64
from scipy.sparse import csc_matrix

ENTRIES = 1 << 21  # (stored score, trait) pairs in memory at once in each thread
MOST = 256  # prototypes of a block
Scores = csc_matrix | np.ndarray  # float [units, prototypes]


def size(scores: Scores) -> tuple[int, int]:
    """(units, prototypes)."""
    units, prototypes = scores.shape  # type: ignore[misc]
    return units, prototypes


def blocks(train: Scores, test: Scores, n_traits: int) -> Iterator[tuple[int, int]]:
    """Ranges of prototypes whose stored scores fit the bound."""
    most = np.maximum(stored(train), stored(test)) * n_traits
    ends = np.cumsum(most)
    start = 0
    while start < len(most):
        before = ends[start - 1] if start else 0
        stop = min(max(int(np.searchsorted(ends, before + ENTRIES, "right")), start + 1), start + MOST, len(most))
        yield start, stop
        start = stop


def stored(scores: Scores) -> Int64[np.ndarray, " prototypes"]:
    """The scores of each prototype that its ranking stores, at most."""
    units, prototypes = size(scores)
    if isinstance(scores, np.ndarray) or (scores.nnz and scores.data.min() < 0):
        return np.full(prototypes, units)
    return np.diff(scores.indptr).astype(np.int64)


def n_threads() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


def ahead(pool: ThreadPoolExecutor, function: Callable, items: Iterator) -> Iterator:
    """The function's results in order, computed ahead by at most two items a thread, so that memory is bounded."""
    pending = []
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > 2 * n_threads():
            yield pending.pop(0).result()
    for one in pending:
        yield one.result()
