"""Arrays of one shape, recycled as soon as nothing refers to them."""

import math
import sys
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

ALIGNMENT = 4096  # reading a file into memory that is not aligned to 64 bytes, as NumPy's is not, takes 3 times as long
Allocate = Callable[[int], UInt8[np.ndarray, " n_bytes"]]
_probe = [object()]
FREE = sys.getrefcount(_probe[0])  # the count of an object that only a list refers to


def pageable(n_bytes: int) -> UInt8[np.ndarray, " n_bytes"]:
    """Ordinary memory."""
    return np.empty(n_bytes, np.uint8)


class Buffers:
    """A pool of arrays; an array is reused once nothing refers to it, its views or its tensors any more.

    A fresh 32 MB array per batch costs as much as filling it, because the kernel clears its pages. Python's reference
    count shows which arrays are free: a consumer may keep a batch, and a loop that drops its batches reuses memory.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, most: int = 8, allocate: Allocate = pageable):
        self.shape, self.dtype, self.most, self.allocate = shape, dtype, most, allocate
        self.blocks: list[np.ndarray] = []

    def take(self) -> np.ndarray:
        """An array that nothing else refers to, with arbitrary contents."""
        for i in range(len(self.blocks)):
            if sys.getrefcount(self.blocks[i]) <= FREE:
                return self._array(self.blocks[i])
        memory = self.allocate(math.prod(self.shape) * self.dtype.itemsize + ALIGNMENT)
        if len(self.blocks) < self.most:  # beyond `most`, arrays are not reused: a consumer keeps its batches
            self.blocks.append(memory)
        return self._array(memory)

    def _array(self, memory: UInt8[np.ndarray, " n_bytes"]) -> np.ndarray:
        start = -memory.ctypes.data % ALIGNMENT
        stop = start + math.prod(self.shape) * self.dtype.itemsize
        return memory[start:stop].view(self.dtype).reshape(self.shape)  # NumPy: all views of `memory` hold `memory`
