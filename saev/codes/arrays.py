"""Arrays on disk whose length is known at their end, and their names."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped

from saev.files import sha256
from saev.shards.tar import npy_header


def array_path(root: Path, shard: int, array: str) -> Path:
    """The file of one of a shard's ARRAYS."""
    return root / f"{shard:06d}.{array}.npy"


def ranges(
    offsets: Int64[np.ndarray, " n_and_1"], most: int, most_items: int | None = None
) -> Iterator[tuple[int, int]]:
    """Consecutive ranges (low, high) of items with at most `most` pairs each, or of one item.

    >>> list(ranges(np.array([0, 3, 5, 5, 9]), most=5))
    [(0, 3), (3, 4)]
    """
    low, n = 0, len(offsets) - 1
    while low < n:
        high = max(low + 1, int(np.searchsorted(offsets, offsets[low] + most, "right")) - 1)
        high = min(high, n, n if most_items is None else low + most_items)
        yield low, high
        low = high


class GrowingArray:
    """A one-dimensional .npy file whose length is known at its end; under a temporary name until `commit`."""

    def __init__(self, path: Path, dtype: str):
        self.path, self.dtype, self.n = path, np.dtype(dtype), 0
        self.temporary = path.with_name(f"{path.name}.part")
        self.file = open(self.temporary, "wb")  # noqa: SIM115 closed by commit and discard
        self.file.write(npy_header((0,), self.dtype.name))

    def append(self, values: Shaped[np.ndarray, " n"]) -> None:
        """Write values at the end."""
        assert values.dtype == self.dtype
        self.file.write(np.ascontiguousarray(values).data)
        self.n += len(values)

    def commit(self) -> str:
        """Complete the header and rename the file to its final name; its sha256."""
        header = npy_header((self.n,), self.dtype.name)
        assert len(header) == len(npy_header((0,), self.dtype.name)), "NumPy pads headers for any length"
        self.file.seek(0)
        self.file.write(header)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        digest = sha256(self.temporary)
        self.temporary.replace(self.path)
        return digest

    def discard(self) -> None:
        """Delete the file."""
        self.file.close()
        self.temporary.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
