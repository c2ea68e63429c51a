"""Arrays of one shape that are used again as soon as nobody holds them any more."""

import sys
from collections.abc import Callable

import numpy as np

Allocate = Callable[[tuple[int, ...], np.dtype], np.ndarray]
_probe = [object()]
FREE = sys.getrefcount(_probe[0])  # of what nothing but a list holds


class Buffers:
    """Hands out arrays; one that has been dropped by everybody (with all its views and tensors) comes back.

    A fresh 32 MB array per batch costs as much as filling it: the kernel has to clear its pages. Python's own reference
    count tells when one is free, so that whoever keeps a batch keeps it, and a loop that drops them recycles.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, most: int = 8, allocate: Allocate = np.empty):
        self.shape, self.dtype, self.most, self.allocate = shape, dtype, most, allocate
        self.made: list[np.ndarray] = []

    def take(self) -> np.ndarray:
        """An array that nobody else holds; its contents are whatever was left in it."""
        for i in range(len(self.made)):
            if sys.getrefcount(self.made[i]) <= FREE:
                return self.made[i]
        made = self.allocate(self.shape, self.dtype)
        if len(self.made) < self.most:  # a consumer that keeps all batches gets new ones, which go when it drops them
            self.made.append(made)
        return made
