"""Codes of images from those of their tokens: the maximum or the mean of each latent over all tokens of an image.

batch of SparseCodes ──by (image, latent)──▶ largest, sum, count ──all batches──▶ a row of codes per image
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64
from scipy.sparse import csr_array

from saev.ops.sparse import SparseCodes


class Pairs(NamedTuple):
    """(image, latent) pairs with non-zero codes, ascending; the key of a pair is image * 2^32 + latent."""

    key: Int64[np.ndarray, " pairs"]
    largest: Float32[np.ndarray, " pairs"]
    total: Float64[np.ndarray, " pairs"]
    count: Int64[np.ndarray, " pairs"]


class PooledCodes:
    """Images' codes of one dictionary; silent tokens count as 0 in the mean and in the maximum.

    Memory: 28 bytes per (image, latent) that fires, for each batch that has tokens of the image.
    """

    def __init__(self, n_images: int):
        self.tokens = np.zeros(n_images, np.int64)
        self.parts: list[Pairs] = []

    def update(self, codes: SparseCodes, image: Int[np.ndarray, " tokens"]) -> None:
        """Add a batch; `image` is the number of each token's image, -1 for images outside the split."""
        offsets, latents, values = (part.cpu().numpy() for part in codes)
        row = np.repeat(image.astype(np.int64), np.diff(offsets))
        kept = (row >= 0) & (values != 0)
        value = values[kept].astype(np.float32)
        key = (row[kept] << 32) | latents[kept]
        self.parts.append(merge_pairs(Pairs(key, value, value.astype(np.float64), np.ones(len(key), np.int64))))
        self.tokens += np.bincount(image[image >= 0], minlength=len(self.tokens))

    @property
    def nbytes(self) -> int:
        """Memory of the pairs."""
        return sum(array.nbytes for part in self.parts for array in part)

    def codes(self, pooling: str) -> csr_array:
        """A row per image, a column per latent up to the last that fires; `pooling` is max or mean."""
        if len(self.parts) != 1:
            empty = [Pairs(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0), np.zeros(0, np.int64))]
            self.parts = [
                merge_pairs(Pairs(*(np.concatenate(each) for each in zip(*(empty + self.parts), strict=True))))
            ]
        (pairs,) = self.parts
        image, latent = pairs.key >> 32, pairs.key & 0xFFFFFFFF
        n = self.tokens[image]
        if pooling == "mean":
            value = (pairs.total / n).astype(np.float32)
        else:  # where a token is silent, the largest code is at least 0
            value = np.where(pairs.count < n, np.maximum(pairs.largest, 0), pairs.largest)
        return codes_matrix(image, latent, value, len(self.tokens))


def merge_pairs(pairs: Pairs) -> Pairs:
    """The pairs, with those of equal keys merged."""
    if not len(pairs.key):
        return pairs
    order = np.argsort(pairs.key, kind="stable")
    key = pairs.key[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    return Pairs(
        key[starts],
        np.maximum.reduceat(pairs.largest[order], starts),
        np.add.reduceat(pairs.total[order], starts),
        np.add.reduceat(pairs.count[order], starts),
    )


def codes_matrix(
    row: Int[np.ndarray, " nnz"], latent: Int[np.ndarray, " nnz"], value: Float32[np.ndarray, " nnz"], n_rows: int
) -> csr_array:
    """Codes as a sparse matrix with columns up to the last latent that fires."""
    width = int(latent.max()) + 1 if len(latent) else 1
    codes = csr_array((value, (row.astype(np.int32), latent.astype(np.int32))), shape=(n_rows, width))
    codes.eliminate_zeros()
    return codes


def pad_columns(a: csr_array, b: csr_array) -> tuple[csr_array, csr_array]:
    """Both, padded or cut to the last column that is non-zero in either."""
    width = max(int(m.indices.max(initial=0)) for m in (a, b)) + 1
    a, b = (csr_array((m.data, m.indices, m.indptr), shape=(len(m.indptr) - 1, width)) for m in (a, b))
    return a, b


def sample_evenly(group: Int[np.ndarray, " n"], most: int, seed: int) -> Int64[np.ndarray, " drawn"]:
    """Ascending indices of `most` elements, equally many of every group (within one), or all of a smaller group.

    >>> sample_evenly(np.array([0, 0, 0, 0, 0, 0, 5, 7]), 4, seed=0).tolist()[-2:]
    [6, 7]
    """
    order = np.random.default_rng(seed).permutation(len(group))
    by_group = order[np.argsort(group[order], kind="stable")]
    starts = np.flatnonzero(np.diff(group[by_group], prepend=-1))
    rank = np.empty(len(group), np.int64)  # random rank of each element within its group
    rank[by_group] = np.arange(len(group)) - np.repeat(starts, np.diff(starts, append=len(group)))
    return np.sort(order[np.argsort(rank[order], kind="stable")[:most]])
