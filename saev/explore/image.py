"""One image: the strongest latents of each of its patches, and of the image as a whole."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64

from saev.codes.store import CodeStore

NONE = -1  # in `latents`: fewer fire on the patch


class PatchLatents(NamedTuple):
    """The latents with the largest codes of each patch, largest first; NONE with code 0 where fewer fire."""

    grid: tuple[int, int]
    latents: Int32[np.ndarray, "patches top"]
    codes: Float32[np.ndarray, "patches top"]


def patch_latents(codes: CodeStore, example: int, top: int = 16) -> PatchLatents | None:
    """The `top` largest codes of each patch of an image, by rows from its top left corner; None where it has no grid of patches.

    Patches that were not encoded have none. Equal codes: the lower latent first.
    """
    row = codes.images.row(int(np.searchsorted(codes.images["example"].to_numpy(), example)), named=True)
    if not row.get("grid_h") or codes.manifest.first_patch is None:
        return None
    grid = row["grid_h"], row["grid_w"]
    start, stop = codes.rows_of(example)
    patch = codes.tokens(start, stop)[1] - codes.manifest.first_patch
    rows = codes.rows(start, stop)
    token = np.repeat(np.arange(len(patch)), np.diff(rows.offsets))
    values = np.asarray(rows.values, np.float32)
    order = np.lexsort((rows.latents, np.negative(values), token))
    rank = np.arange(len(token)) - rows.offsets[token]  # tokens keep their numbers of codes
    kept = order[(rank < top) & (values[order] > 0)]
    rank = rank[(rank < top) & (values[order] > 0)]
    inside = (patch[token[kept]] >= 0) & (patch[token[kept]] < grid[0] * grid[1])
    kept, rank = kept[inside], rank[inside]
    latents = np.full((grid[0] * grid[1], top), NONE, np.int32)
    largest = np.zeros(latents.shape, np.float32)
    latents[patch[token[kept]], rank] = rows.latents[kept]
    largest[patch[token[kept]], rank] = values[kept]
    return PatchLatents(grid, latents, largest)


def strongest(codes: CodeStore, example: int, n: int = 16) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """(latents, their largest codes on a token) of the n latents with the largest codes on an image, largest first."""
    pooled = codes.pooled("max")
    number = int(np.searchsorted(codes.images["example"].to_numpy(), example))
    start, stop = np.asarray(pooled.indptr)[number : number + 2]
    latents, values = pooled.indices[start:stop], pooled.data[start:stop]
    best = np.argsort(np.negative(values), kind="stable")[:n]
    best = best[values[best] > 0]
    return latents[best].astype(np.int64), values[best].astype(np.float32)
