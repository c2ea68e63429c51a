"""The codes by latent: the transpose (CSC) of the shards, written out of core, read as memory-mapped arrays.

latent_offsets.npy int64 [n_latents + 1]; latent_rows.npy, latent_values.npy [nnz]: latent j has the rows and values between
its two offsets, by ascending row.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped, UInt

from saev.codes.arrays import GrowingArray, array_path, ranges
from saev.files import sha256, write_atomically
from saev.shards.tar import npy

OFFSETS, ROWS, VALUES = (f"latent_{name}.npy" for name in ("offsets", "rows", "values"))
BUDGET = 1 << 30  # bytes of rows and values in memory


def write_by_latent(
    root: Path, n_latents: int, tokens: Sequence[int], dtype: str, budget: int = BUDGET
) -> dict[str, str]:
    """Write the view of a directory's shards, which have these numbers of rows; the sha256 of each file.

    Each range of latents whose pairs fit `budget` costs a pass over the shards. Memory: the budget, and up to five
    times a shard.
    """
    counts = np.zeros(n_latents, np.int64)
    for shard in range(len(tokens)):
        counts += np.bincount(np.load(array_path(root, shard, "indices"), mmap_mode="r"), minlength=n_latents)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    row_type = np.dtype(np.uint32 if sum(tokens) < 1 << 32 else np.uint64)
    arrays = [GrowingArray(root / ROWS, row_type.name), GrowingArray(root / VALUES, dtype)]
    try:
        for low, high in ranges(offsets, budget // (row_type.itemsize + np.dtype(dtype).itemsize)):
            pairs = int(offsets[high] - offsets[low])
            rows, values = np.empty(pairs, row_type), np.empty(pairs, dtype)
            scatter(root, tokens, low, high, offsets[low : high + 1] - offsets[low], rows, values)
            arrays[0].append(rows)
            arrays[1].append(values)
        digests = {array.path.name: array.commit() for array in arrays}
    except BaseException:
        for array in arrays:
            array.discard()
        raise
    write_atomically(root / OFFSETS, npy(offsets))
    return {OFFSETS: sha256(root / OFFSETS), **digests}


def scatter(
    root: Path,
    tokens: Sequence[int],
    low: int,
    high: int,
    offsets: Int64[np.ndarray, " range_and_1"],
    rows: UInt[np.ndarray, " pairs"],
    values: Shaped[np.ndarray, " pairs"],
) -> None:
    """Fill `rows` and `values` with the pairs of latents low to high (excluded), latent by latent from `offsets`."""
    from scipy.sparse import csr_matrix

    free, first = offsets[:-1].copy(), 0  # where each latent's next pair goes; the first row of the shard
    bits = np.dtype(f"u{values.itemsize}")  # SciPy has no float16
    for shard, n in enumerate(tokens):
        indptr, indices, codes = (np.load(array_path(root, shard, a)) for a in ("indptr", "indices", "values"))
        if n == 0:
            continue
        shape = n, max(high, int(indices.max(initial=0)) + 1)
        columns = csr_matrix((codes.view(bits), indices, indptr), shape=shape).tocsc()
        starts = columns.indptr[low : high + 1].astype(np.int64)
        counts, part = np.diff(starts), slice(int(starts[0]), int(starts[-1]))
        places = np.arange(starts[0], starts[-1]) + np.repeat(free - starts[:-1], counts)
        rows[places] = columns.indices[part].astype(rows.dtype) + rows.dtype.type(first)
        values.view(bits)[places] = columns.data[part]
        free += counts
        first += n
