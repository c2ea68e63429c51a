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
    """An iterable over a stream's batches as tensors; without a length, because Lightning reads ahead of sized loaders."""

    def __init__(self, make: functools.partial, depth: int, while_waiting: Callable[[], None] | None = None):
        self.make, self.depth, self.while_waiting = make, depth, while_waiting

    def __iter__(self) -> Iterator[dict[str, Any]]:
        closing = threading.Event()
        return prefetch(self._tensors(closing), self.depth, closing, self.while_waiting)

    def _tensors(self, closing: threading.Event) -> Iterator[dict[str, Any]]:
        with contextlib.closing(self.make(closing=closing)) as batches:  # so that closing the iterator closes the files
            for batch in batches:
                tensors = {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in batch.items()}
                del batch  # memory to which only the consumer refers can be reused
                yield tensors
                del tensors
