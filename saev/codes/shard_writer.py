"""Writing one shard of codes: three arrays, renamed when complete, and the statistics of its latents."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from saev.codes.latents import LatentStatistics
from saev.codes.manifest import ARRAYS, array_path
from saev.codes.pairs import narrowed
from saev.files import sha256
from saev.ops.sparse import SparseCodes
from saev.shards.layer_shard import all_finite
from saev.shards.tar import npy_header


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


class ShardWriter:
    """The rows of one shard, added in order; see `CodeWriter.shard`. `name` is the dictionary's, for errors."""

    def __init__(self, root: Path, number: int, statistics: LatentStatistics, dtype: str, name: str):
        for file in root.glob(f"{number:06d}.*"):  # of a process that was killed while it wrote this shard
            file.unlink(missing_ok=True)
        self.statistics, self.name, self.dtype = statistics, name, getattr(torch, dtype)
        kinds = {"indptr": "int64", "indices": "int32", "values": dtype}
        self.arrays = {array: GrowingArray(array_path(root, number, array), kinds[array]) for array in ARRAYS}
        self.nnz = 0
        self.arrays["indptr"].append(np.zeros(1, np.int64))

    @property
    def tokens(self) -> int:
        """Rows added."""
        return self.arrays["indptr"].n - 1

    def add(self, codes: SparseCodes, example: Int[np.ndarray, " rows"], token: Int[np.ndarray, " rows"]) -> None:
        """Append rows: their codes, on any device, and the image and the token (within the image) of each.

        ValueError where a code is not finite or exceeds the dtype.
        """
        stored = narrowed(codes.values, self.dtype).cpu().numpy()
        if not all_finite(stored):
            raise ValueError(self._not_finite(codes.values))
        offsets, latents = codes.offsets.long().cpu().numpy(), codes.latents.int().cpu().numpy()
        values = codes.values.float().cpu().numpy()
        self.statistics.update(offsets, latents, values, example, token)
        for name, array in (("indptr", self.nnz + offsets[1:]), ("indices", latents), ("values", stored)):
            self.arrays[name].append(array)
        self.nnz += len(stored)

    def _not_finite(self, values: Tensor) -> str:
        if not torch.isfinite(values).all():
            return f"{self.name} has codes that are NaN or infinite: it has diverged; leave it out or train it again."
        return (
            f"{self.name} has a code of {values.abs().max().item():.4g}, beyond the range of float16 (65504): encode with "
            "dtype=float32."
        )

    def commit(self) -> tuple[dict[str, Any], LatentStatistics]:
        """Complete the arrays; the shard's entry in the manifest, and the statistics of its latents."""
        entry = {"tokens": self.tokens, "nnz": self.nnz, "sha256": {}}
        entry["sha256"] = {name: array.commit() for name, array in self.arrays.items()}
        self.statistics.top.settle()
        return entry, self.statistics

    def discard(self) -> None:
        """Delete the shard's files."""
        for array in self.arrays.values():
            array.discard()
