"""Arrays of one shape that are used again as soon as nobody holds them any more."""

import math
import sys
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

ALIGNMENT = 4096  # reading a file into memory that is not aligned to 64 bytes, as NumPy's is not, takes 3 times as long
Allocate = Callable[[int], UInt8[np.ndarray, " n_bytes"]]
_probe = [object()]
FREE = sys.getrefcount(_probe[0])  # of what nothing but a list holds


def pageable(n_bytes: int) -> UInt8[np.ndarray, " n_bytes"]:
    """Ordinary memory."""
    return np.empty(n_bytes, np.uint8)


class Buffers:
    """Hands out arrays; one that has been dropped by everybody (with all its views and tensors) comes back.

    A fresh 32 MB array per batch costs as much as filling it: the kernel has to clear its pages. Python's own reference
    count tells when one is free, so that whoever keeps a batch keeps it, and a loop that drops them recycles.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, most: int = 8, allocate: Allocate = pageable):
        self.shape, self.dtype, self.most, self.allocate = shape, dtype, most, allocate
        self.made: list[np.ndarray] = []

    def take(self) -> np.ndarray:
        """An array that nobody else holds; its contents are whatever was left in it."""
        for i in range(len(self.made)):
            if sys.getrefcount(self.made[i]) <= FREE:
                return self._array(self.made[i])
        memory = self.allocate(math.prod(self.shape) * self.dtype.itemsize + ALIGNMENT)
        if len(self.made) < self.most:  # a consumer that keeps all batches gets new ones, which go when it drops them
            self.made.append(memory)
        return self._array(memory)

    def _array(self, memory: UInt8[np.ndarray, " n_bytes"]) -> np.ndarray:
        start = -memory.ctypes.data % ALIGNMENT
        stop = start + math.prod(self.shape) * self.dtype.itemsize
        return memory[start:stop].view(self.dtype).reshape(self.shape)  # NumPy: all views of `memory` hold `memory`
