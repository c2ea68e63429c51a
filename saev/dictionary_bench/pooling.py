"""Codes of a batch of whole images, pooled over the tokens of each: from (token, latent, value) pairs, or from a dense matrix."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from saev.dictionary_bench.spatial import MIN_ACTIVE, morans_i, most_active
from saev.ops.ordering import order
from saev.ops.sparse import SparseCodes


class Pooled(NamedTuple):
    """Per image the number of latents that fire on it, and per pair of image and latent, in this order, what `ImageCodes` says."""

    counts: Int64[np.ndarray, " images"]
    latents: Int32[np.ndarray, " nnz"]
    max: Float32[np.ndarray, " nnz"]
    active: Int32[np.ndarray, " nnz"]
    morans_i: Float32[np.ndarray, " nnz"]


def pool_pairs(
    codes: SparseCodes,
    n_tokens: Int64[np.ndarray, " images"],
    patch: Int64[np.ndarray, " tokens"],
    grids: Int64[np.ndarray, "images 2"],
    n_latents: int,
) -> Pooled:
    """Pool codes whose rows are the tokens of images with so many tokens each.

    `patch`: each token's number in the row-major order of its image's patches, negative for tokens that are no patches;
    `grids`: rows and columns of patches, 0 where there is no grid.
    """
    fires = codes.values != 0  # codes of 0 are padding
    rows, latents, values = (a[fires].cpu().numpy() for a in (codes.rows(), codes.latents, codes.values.float()))
    image = np.repeat(np.arange(len(n_tokens)), n_tokens)[rows]
    key = torch.from_numpy(image * n_latents + latents)
    by_latent = order(key, below=len(n_tokens) * n_latents).numpy()
    key, values, patch = key.numpy()[by_latent], values[by_latent], patch[rows[by_latent]]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    active = np.diff(np.append(starts, len(key)))
    image, latents = np.divmod(key[starts], n_latents)
    largest = np.maximum.reduceat(values, starts) if len(starts) else np.zeros(0, np.float32)
    largest = np.where(active < n_tokens[image], np.maximum(largest, 0), largest)
    spatial = np.full(len(starts), np.nan, np.float32)
    for height, width in np.unique(grids[grids.all(1)], axis=0).tolist():
        maps = (grids[image] == (height, width)).all(1)
        pairs = np.repeat(maps, active) & (patch >= 0)
        counts = np.add.reduceat(pairs, starts, dtype=np.int64)[maps] if len(starts) else np.zeros(0, np.int64)
        spatial[maps] = morans_i(counts, patch[pairs], values[pairs], height, width)
    counts = np.bincount(image, minlength=len(n_tokens))
    return Pooled(counts, latents.astype(np.int32), largest, active.astype(np.int32), spatial)


def pool_dense(
    codes: Float[Tensor, "tokens n_latents"],
    n_tokens: Int64[np.ndarray, " images"],
    patch: Int64[np.ndarray, " tokens"],
    grids: Int64[np.ndarray, "images 2"],
) -> Pooled:
    """The same of a matrix: without pairs, except those of valid maps."""
    stops = np.cumsum(n_tokens)
    parts = [
        _pool_image(codes[stop - n : stop].float(), patch[stop - n : stop], grid[0], grid[1])
        for stop, n, grid in zip(stops.tolist(), n_tokens.tolist(), grids.tolist(), strict=True)
    ]
    return Pooled(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _pool_image(
    codes: Float32[Tensor, "tokens n_latents"], patch: Int64[np.ndarray, " tokens"], height: int, width: int
) -> Pooled:
    active = (codes != 0).sum(0, dtype=torch.int32)
    fires = active.nonzero().squeeze(1)
    spatial = np.full(len(fires), np.nan, np.float32)
    if height:
        maps = codes[torch.from_numpy(patch >= 0)]
        counts = (maps != 0).sum(0)[fires]
        valid = ((counts >= MIN_ACTIVE) & (counts <= most_active(height * width))).nonzero().squeeze(1)
        by_latent = maps[:, fires[valid]].T.cpu().numpy()
        _, at = np.nonzero(by_latent)
        values = by_latent[by_latent != 0]
        spatial[valid.cpu().numpy()] = morans_i(
            counts[valid].cpu().numpy(), patch[patch >= 0][at], values, height, width
        )
    largest = codes.amax(0)[fires]
    latents, largest, active = (a.cpu().numpy() for a in (fires.int(), largest, active[fires]))
    return Pooled(np.array([len(fires)]), latents, largest, active, spatial)
