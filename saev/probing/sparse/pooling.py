"""Codes of images out of those of their tokens: the largest or the mean of each latent, over all tokens of an image.

batch of SparseCodes ──by (image, latent)──▶ largest, sum, count ──all batches──▶ a row of codes per image
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64
from scipy.sparse import csr_array

from saev.ops.sparse import SparseCodes


class Pairs(NamedTuple):
    """(image, latent) pairs with codes that are not 0, ascending; a pair's key is image * 2^32 + latent."""

    key: Int64[np.ndarray, " pairs"]
    largest: Float32[np.ndarray, " pairs"]
    total: Float64[np.ndarray, " pairs"]
    count: Int64[np.ndarray, " pairs"]


class PooledCodes:
    """Images' codes of one dictionary. Tokens without a code count: as 0 in a mean, and as 0 in a maximum.

    Memory: 28 bytes per (image, latent) that fires; an image whose tokens come in several batches has it once for each.
    """

    def __init__(self, n_images: int):
        self.tokens = np.zeros(n_images, np.int64)
        self.parts: list[Pairs] = []

    def update(self, codes: SparseCodes, image: Int[np.ndarray, " tokens"]) -> None:
        """Add a batch; `image` is each token's number, -1 for tokens of other images."""
        offsets, latents, values = (part.cpu().numpy() for part in codes)
        row = np.repeat(image.astype(np.int64), np.diff(offsets))
        kept = (row >= 0) & (values != 0)
        value = values[kept].astype(np.float32)
        key = (row[kept] << 32) | latents[kept]
        self.parts.append(reduced(Pairs(key, value, value.astype(np.float64), np.ones(len(key), np.int64))))
        self.tokens += np.bincount(image[image >= 0], minlength=len(self.tokens))

    @property
    def nbytes(self) -> int:
        """Memory of the pairs."""
        return sum(array.nbytes for part in self.parts for array in part)

    def codes(self, pooling: str) -> csr_array:
        """A row per image, a column per latent up to the last that fires; `pooling` is max or mean."""
        if len(self.parts) != 1:
            empty = [Pairs(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0), np.zeros(0, np.int64))]
            self.parts = [reduced(Pairs(*(np.concatenate(each) for each in zip(*(empty + self.parts), strict=True))))]
        (pairs,) = self.parts
        image, latent = pairs.key >> 32, pairs.key & 0xFFFFFFFF
        n = self.tokens[image]
        if pooling == "mean":
            value = (pairs.total / n).astype(np.float32)
        else:  # where some token is silent, the largest code is at least 0
            value = np.where(pairs.count < n, np.maximum(pairs.largest, 0), pairs.largest)
        return codes_matrix(image, latent, value, len(self.tokens))


def reduced(pairs: Pairs) -> Pairs:
    """Those of equal keys as one."""
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
    """Codes as a sparse matrix, of as many columns as latents are needed."""
    width = int(latent.max()) + 1 if len(latent) else 1
    found = csr_array((value, (row.astype(np.int32), latent.astype(np.int32))), shape=(n_rows, width))
    found.eliminate_zeros()
    return found


def pad_columns(a: csr_array, b: csr_array) -> tuple[csr_array, csr_array]:
    """Both with columns up to the last latent that either needs."""
    width = max(int(each.indices.max(initial=0)) for each in (a, b)) + 1
    a, b = (csr_array((m.data, m.indices, m.indptr), shape=(len(m.indptr) - 1, width)) for m in (a, b))
    return a, b


def sample_evenly(group: Int[np.ndarray, " n"], most: int, seed: int) -> Int64[np.ndarray, " drawn"]:
    """Ascending places of `most` elements, as many of each group as of any other (to one), or all where a group has fewer.

    >>> sample_evenly(np.array([0, 0, 0, 0, 0, 0, 5, 7]), 4, seed=0).tolist()[-2:]
    [6, 7]
    """
    order = np.random.default_rng(seed).permutation(len(group))
    by_group = order[np.argsort(group[order], kind="stable")]
    starts = np.flatnonzero(np.diff(group[by_group], prepend=-1))
    turn = np.empty(len(group), np.int64)  # each element's turn within its group
    turn[by_group] = np.arange(len(group)) - np.repeat(starts, np.diff(starts, append=len(group)))
    return np.sort(order[np.argsort(turn[order], kind="stable")[:most]])
