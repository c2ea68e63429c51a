"""k-means of a sample of activations, through faiss."""

import logging

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

log = logging.getLogger(__name__)

ENOUGH = 39  # points per centroid: below, faiss says, centroids follow single points
ITERATIONS = 10


def kmeans(
    sample: Float[Tensor, "n d"],
    n_centroids: int,
    seed: int,
    n_init: int = 1,
    advice: str = "record more images, or lower d_sae",
) -> Float[Tensor, "n_centroids d"]:
    """Centroids of the sample, each of at least one point of it; a function of the arguments.

    Of `n_init` searches, each from random points, the one with the least inertia is taken. Centroids that are left without
    points are replaced by the points that lie farthest from theirs. ValueError where there are fewer points than centroids;
    a warning, which ends in `advice`, below ENOUGH for each. Searched on a GPU where torch and faiss both see one.
    """
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells which instructions it uses
    import faiss

    n, d = sample.shape
    if n < n_centroids:
        raise ValueError(
            f"init by k-means: {n_centroids} centroids of {n} tokens; lower d_sae (or decoder.points), record more images, or "
            "take init=data."
        )
    if n < ENOUGH * n_centroids:
        log.warning(
            "k-means: %d tokens for %d centroids, %.1f each; at least %d are advised: %s",
            n, n_centroids, n / n_centroids, ENOUGH, advice,
        )  # fmt: skip
    x = np.ascontiguousarray(sample.detach().float().cpu().numpy())
    found = faiss.Kmeans(
        d,
        n_centroids,
        niter=ITERATIONS,
        nredo=n_init,
        seed=seed % (1 << 31),
        min_points_per_centroid=1,
        max_points_per_centroid=n,
        gpu=torch.cuda.is_available() and faiss.get_num_gpus() > 0,
    )
    found.train(x)
    assert found.index is not None and found.centroids is not None
    distance, nearest = found.index.search(x, 1)
    return torch.from_numpy(_refilled(found.centroids, x, distance[:, 0], nearest[:, 0])).to(sample)


def _refilled(
    centroids: Float[np.ndarray, "k d"],
    x: Float[np.ndarray, "n d"],
    distance: Float[np.ndarray, " n"],
    nearest: np.ndarray,
) -> Float[np.ndarray, "k d"]:
    """The centroids, those without points replaced by the points farthest from theirs."""
    empty = np.flatnonzero(np.bincount(nearest, minlength=len(centroids)) == 0)
    centroids = centroids.copy()
    centroids[empty] = x[np.argsort(-distance, kind="stable")[: len(empty)]]
    return centroids
