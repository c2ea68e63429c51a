"""Rows of codes in CSR, and their conversion to SciPy, torch and NumPy."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64, Shaped

from saev.ops.sparse import SparseCodes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class CodeRows(NamedTuple):
    """Rows in CSR: row r has `latents[offsets[r]:offsets[r + 1]]`, ascending, with those `values`.

    Within a shard, latents and values are read-only views of the files.
    """

    offsets: Int64[np.ndarray, " rows_and_1"]
    latents: Int32[np.ndarray, " nnz"]
    values: Shaped[np.ndarray, " nnz"]
    n_latents: int

    def scipy(self) -> "csr_matrix":
        """float32 [rows, n_latents]."""
        from scipy.sparse import csr_matrix

        shape = len(self.offsets) - 1, self.n_latents
        return csr_matrix((self.values.astype(np.float32), self.latents, self.offsets), shape=shape)

    def torch(self) -> SparseCodes:
        """float32 values in the library's own CSR: `.dense(n_latents)`, or decoded by `saev.ops.sparse.decode_sparse`."""
        values = self.values.astype(np.float32)
        return SparseCodes(*(torch.from_numpy(a) for a in (self.offsets, self.latents.astype(np.int64), values)))

    def dense(self) -> Float[np.ndarray, "rows n_latents"]:
        """float32 [rows, n_latents], with zeros."""
        out = np.zeros((len(self.offsets) - 1, self.n_latents), np.float32)
        out[np.repeat(np.arange(len(out)), np.diff(self.offsets)), self.latents] = self.values
        return out


def joined(pieces: list[CodeRows], n_latents: int, dtype: str) -> CodeRows:
    """Rows of several shards concatenated, copied."""
    counts = [np.zeros(1, np.int64), *(np.diff(piece.offsets) for piece in pieces)]
    latents = [np.empty(0, np.int32), *(piece.latents for piece in pieces)]
    values = [np.empty(0, dtype), *(piece.values for piece in pieces)]
    return CodeRows(np.cumsum(np.concatenate(counts)), np.concatenate(latents), np.concatenate(values), n_latents)
