"""A stream's batches as tensors, computed ahead of the trainer."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from datamodules.prefetch import prefetch


class Batches:
    """An iterable over a stream's batches as tensors; without a length, because Lightning reads ahead of sized loaders.

    Args:
        make: the stream's iterator of batches, given `closing`.
        depth: batches computed ahead.
        while_waiting: as for `prefetch`.
        meet: called when a batch is here, with whether another follows; returns whether one follows in any process. A process
            whose batches have ended goes on calling it until they have ended in all.
        n: number of batches; None: endless.
    """

    def __init__(
        self,
        make: functools.partial,
        depth: int,
        while_waiting: Callable[[], None] | None = None,
        meet: Callable[[bool], bool] = bool,
        n: int | None = None,
    ):
        self.make, self.depth, self.while_waiting, self.meet, self.n = make, depth, while_waiting, meet, n

    def __iter__(self) -> Iterator[dict[str, Any]]:
        closing = threading.Event()
        more = False
        with contextlib.closing(prefetch(self._tensors(closing), self.depth, closing, self.while_waiting)) as batches:
            for i, batch in enumerate(batches):
                more = self.meet(self.n is None or i + 1 < self.n)
                yield batch
                del batch
        while more:
            more = self.meet(False)

    def _tensors(self, closing: threading.Event) -> Iterator[dict[str, Any]]:
        with contextlib.closing(self.make(closing=closing)) as batches:  # so that closing the iterator closes the files
            for batch in batches:
                tensors = {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in batch.items()}
                del batch  # memory to which only the consumer refers can be reused
                yield tensors
                del tensors
