"""k-means of a sample of activations, through faiss."""

import logging

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

log = logging.getLogger(__name__)

ENOUGH = 39  # points per centroid that faiss advises
ITERATIONS = 10


def kmeans(
    sample: Float[Tensor, "n d"],
    n_centroids: int,
    seed: int,
    n_init: int = 1,
    advice: str = "record more images, or lower d_sae",
) -> Float[Tensor, "n_centroids d"]:
    """Centroids of the sample, each of at least one point of it; a function of the arguments.

    The best, by inertia, of `n_init` runs from random points. Centroids without points are replaced by the points farthest from
    their centroid. ValueError for fewer points than centroids; a warning, which ends in `advice`, for fewer than ENOUGH per
    centroid. Runs on a GPU where torch and faiss both have one.
    """
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it logs the instruction set at import
    import faiss

    n, d = sample.shape
    if n < n_centroids:
        raise ValueError(
            f"init by k-means: {n_centroids} centroids of {n} tokens; lower d_sae (or decoder.points), record more images, or "
            "set init=data."
        )
    if n < ENOUGH * n_centroids:
        log.warning(
            "k-means: %d tokens for %d centroids, %.1f each; at least %d are advised: %s",
            n, n_centroids, n / n_centroids, ENOUGH, advice,
        )  # fmt: skip
    x = np.ascontiguousarray(sample.detach().float().cpu().numpy())
    clustering = faiss.Kmeans(
        d,
        n_centroids,
        niter=ITERATIONS,
        nredo=n_init,
        seed=seed % (1 << 31),
        min_points_per_centroid=1,
        max_points_per_centroid=n,
        gpu=torch.cuda.is_available() and faiss.get_num_gpus() > 0,
    )
    clustering.train(x)
    assert clustering.index is not None and clustering.centroids is not None
    distance, nearest = clustering.index.search(x, 1)
    return torch.from_numpy(_refilled(clustering.centroids, x, distance[:, 0], nearest[:, 0])).to(sample)


def _refilled(
    centroids: Float[np.ndarray, "k d"],
    x: Float[np.ndarray, "n d"],
    distance: Float[np.ndarray, " n"],
    nearest: np.ndarray,
) -> Float[np.ndarray, "k d"]:
    """The centroids; those without points are replaced by the points farthest from their centroid."""
    empty = np.flatnonzero(np.bincount(nearest, minlength=len(centroids)) == 0)
    centroids = centroids.copy()
    centroids[empty] = x[np.argsort(-distance, kind="stable")[: len(empty)]]
    return centroids
