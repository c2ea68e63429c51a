"""The nearest centroid of each token: a matrix product in blocks, and exact distances where rounding could decide.

||z - c||^2 - ||z||^2 = ||c||^2 - 2 z.c costs a multiplication per dimension, but cancels: where the two best centroids differ
by less than the product's rounding error, all candidates this close are compared again by differences in float64.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

CPU_BLOCK = 1 << 22  # scores at a time: 16 MB, which fit into the last-level cache
GPU_BLOCK = 1 << 26
ROWS = 2048  # of tokens at a time on a CPU
ROUNDING = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}  # float32, TF32, bfloat16


@torch.no_grad()
def nearest(
    z: Float[Tensor, "batch d"], centroids: Float[Tensor, "k d"]
) -> tuple[Int64[Tensor, " batch"], Float[Tensor, " batch"]]:
    """(index of the nearest centroid, squared distance to it) of each token, in float32 also under autocast.

    Among equally near centroids the lowest index. The distance is computed from the difference, without cancellation; neither
    depends on the rest of the batch.

    >>> index, squared = nearest(torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [5.0], [1.0]]))
    >>> index.tolist(), squared.tolist()
    ([0, 0], [1.0, 4.0])
    """
    z, centroids = z.float(), centroids.float()
    with full_precision(z):
        index = torch.cat([_nearest(rows, score, error, centroids) for rows, _, score, error in _scores(z, centroids)])
        parts = blocks(len(z), z.shape[1], z.device)
        return index, torch.cat([differences(z[part], centroids[index[part]]) for part in parts])


@torch.no_grad()
def distances(z: Float[Tensor, "batch d"], centroids: Float[Tensor, "k d"]) -> Float[Tensor, "batch k"]:
    """All distances; those below a hundredth of the vectors' norms, which rounding would dominate, from differences."""
    z, centroids, blocks_ = z.float(), centroids.float(), []
    with full_precision(z):
        largest = torch.linalg.vector_norm(centroids, dim=1).max()
        for rows, norm, score, _ in _scores(z, centroids):
            squared = score.add_(norm.square()[:, None]).clamp_(min=0)
            row, column = (squared <= 1e-4 * (norm + largest).square()[:, None]).nonzero(as_tuple=True)
            squared[row, column] = _paired(rows, row, centroids, column).float()
            blocks_.append(squared.sqrt_())
    return torch.cat(blocks_)


def differences(z: Float[Tensor, "batch d"], centroids: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"]:
    """||z_i - c_i||^2 row by row, without cancellation."""
    return torch.linalg.vector_norm(z - centroids, dim=1).square()


def full_precision(z: Tensor) -> torch.autocast:
    """Context without autocast: bfloat16 cannot distinguish near centroids."""
    return torch.autocast(z.device.type, enabled=False)


def blocks(n: int, k: int, device: torch.device) -> Iterator[slice]:
    """Slices of n tokens such that a slice's scores of k centroids fit into a block; at least one slice, possibly empty."""
    most, rows = (CPU_BLOCK, ROWS) if device.type == "cpu" else (GPU_BLOCK, n)
    size = max(1, min(rows, most // k))
    return (slice(i, i + size) for i in range(0, max(n, 1), size))


def _scores(z: Tensor, centroids: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(rows, ||z|| [rows], ||c||^2 - 2 z.c [rows, k], bound on their error [rows]), block by block.

    The error of a sum of d products grows as sqrt(d) with a constant below 1/2; the bound is eight times that.
    """
    squares = centroids.square().sum(1)
    largest = squares.max().sqrt()
    rounding = 4 * math.sqrt(z.shape[1]) * ROUNDING[torch.get_float32_matmul_precision()]
    for block in blocks(len(z), len(centroids), z.device):
        rows = z[block]
        norm = torch.linalg.vector_norm(rows, dim=1)
        yield rows, norm, torch.addmm(squares, rows, centroids.T, alpha=-2), rounding * (norm + largest).square()


def _nearest(rows: Tensor, score: Tensor, error: Tensor, centroids: Tensor) -> Tensor:
    index = _argmin(score)[:, None]
    best = score.gather(1, index)[:, 0]
    score.scatter_(1, index, math.inf)
    close = (_min(score) - best <= 2 * error).nonzero()[:, 0]
    if len(close):
        score.scatter_(1, index, best[:, None])
        candidates = score[close] <= (best + 2 * error)[close, None]
        index[close, 0] = _nearest_of(rows[close], centroids, candidates)
    return index[:, 0]


def _nearest_of(rows: Tensor, centroids: Tensor, candidates: Tensor) -> Tensor:
    """The nearest of each row's candidates (bool [rows, k]) by differences in float64, the lowest index among equals."""
    row, column = candidates.nonzero(as_tuple=True)
    squared = _paired(rows, row, centroids, column)
    best = squared.new_full((len(rows),), math.inf).scatter_reduce_(0, row, squared, "amin")
    equal = squared == best[row]
    first = column.new_full((len(rows),), len(centroids))
    return first.scatter_reduce_(0, row[equal], column[equal], "amin")


def _paired(rows: Tensor, row: Tensor, centroids: Tensor, column: Tensor) -> Tensor:
    """Squared distances, in float64, of pairs (row, column)."""
    step = max(1, CPU_BLOCK // rows.shape[1])
    pairs = zip(row.split(step), column.split(step), strict=True)
    return torch.cat([differences(rows[r].double(), centroids[c].double()) for r, c in pairs])


# On a CPU NumPy finds the minimum of a row many times faster than torch does.
def _argmin(score: Tensor) -> Tensor:
    return torch.from_numpy(score.numpy().argmin(1)) if score.device.type == "cpu" else score.argmin(1)


def _min(score: Tensor) -> Tensor:
    return torch.from_numpy(score.numpy().min(1)) if score.device.type == "cpu" else score.amin(1)
