"""Moran's I of sparse maps: whether neighbouring patches have like codes, from the patches that are not 0 alone.

    I = P / S * sum_pq W_pq (x_p - m) (x_q - m) / sum_p (x_p - m)^2

over the P patches of a grid, W_pq = 1 for each of the up to 8 neighbours of a patch, S the sum of W, m the mean code. Moran,
Biometrika 37 (1950). With x being sparse, the numerator is x'Wx - 2 m W1'x + m^2 S.
"""

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

MIN_ACTIVE, MAX_ACTIVE = 5, 0.9  # patches, and fraction of the patches, as in ViSAEBench
NO_VARIANCE = 1e-10  # sum of squares about the mean, as in ViSAEBench
CELLS = 1 << 22  # of grids that are in memory at once


def most_active(n_patches: int) -> int:
    """The largest number of active patches of a valid map."""
    return int(MAX_ACTIVE * n_patches)


def degrees(height: int, width: int) -> Int64[np.ndarray, " patches"]:
    """The number of neighbours of each patch, in row-major order: 8 inside, 5 at an edge, 3 in a corner."""
    rows, columns = (1 + (np.arange(n) > 0) + (np.arange(n) < n - 1) for n in (height, width))
    return (rows[:, None] * columns - 1).ravel()


def morans_i(
    counts: Int[np.ndarray, " maps"],
    patch: Int[np.ndarray, " pairs"],
    value: Float[np.ndarray, " pairs"],
    height: int,
    width: int,
) -> Float64[np.ndarray, " maps"]:
    """Moran's I of each map; NaN for fewer than 5 active patches, for more than 90 % of them, and without variance.

    Map i is given by the next counts[i] pairs: the number of a patch in row-major order, each once, and its value, not 0.
    """
    result = np.full(len(counts), np.nan)
    valid = (counts >= MIN_ACTIVE) & (counts <= most_active(height * width))
    kept, numbers = np.repeat(valid, counts), np.flatnonzero(valid)
    counts, patch, value = counts[valid], patch[kept], value[kept].astype(np.float64)
    ends = np.cumsum(counts)
    maps = max(1, CELLS // ((height + 1) * (width + 1)))
    for low in range(0, len(counts), maps):
        some = slice(low, low + maps)
        pairs = slice(int(ends[low] - counts[low]), int(ends[some][-1]))
        result[numbers[some]] = _valid_maps(counts[some], patch[pairs], value[pairs], height, width)
    return result


def _valid_maps(
    counts: Int[np.ndarray, " maps"],
    patch: Int[np.ndarray, " pairs"],
    value: Float64[np.ndarray, " pairs"],
    height: int,
    width: int,
) -> Float64[np.ndarray, " maps"]:
    stride, n_patches, degree = width + 1, height * width, degrees(height, width)
    starts = np.cumsum(counts) - counts
    # each grid has a column of zeros on its right, which is also on the left of the next row, and a row of zeros below
    cell = np.repeat(np.arange(len(counts)) * (height + 1) * stride, counts) + patch // width * stride + patch % width
    grids = np.zeros(len(counts) * (height + 1) * stride + 1)
    grids[cell] = value
    after = grids[cell + 1] + grids[cell + stride - 1] + grids[cell + stride] + grids[cell + stride + 1]
    terms = np.stack([value, value**2, value * degree[patch], 2 * value * after])
    total, square, weighted, cross = np.add.reduceat(terms, starts, axis=1)
    mean = total / n_patches
    numerator = cross - 2 * mean * weighted + mean**2 * degree.sum()
    variation = square - mean * total
    valid = variation > NO_VARIANCE
    ratio = np.divide(numerator, variation, where=valid, out=np.full(len(counts), np.nan))
    return n_patches / degree.sum() * ratio
