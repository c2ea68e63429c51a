"""Latents as vectors over images, of which similarities are computed: standardised pooled codes, and top images."""

import numpy as np
from jaxtyping import Float32

from saev.scoring.blocks import Scores, size
from saev.scoring.ranking import rank


def dense(scores: Scores) -> Float32[np.ndarray, "latents images"]:
    """The codes of each latent."""
    return np.ascontiguousarray((scores if isinstance(scores, np.ndarray) else scores.toarray()).T, np.float32)


def standardised(codes: Float32[np.ndarray, "latents images"]) -> Float32[np.ndarray, "latents images"]:
    """Less their mean, of length 1; 0 where all codes are equal."""
    centred = codes - codes.mean(1, keepdims=True, dtype=np.float64)
    length = np.sqrt((centred**2).sum(1, keepdims=True))
    length[np.ptp(codes, 1) == 0] = np.inf
    return (centred / length).astype(np.float32)


def top_images(scores: Scores, top: int) -> Float32[np.ndarray, "latents images"]:
    """1 for the images with the `top` largest codes above 0."""
    n_images, n_latents = size(scores)
    ranking = rank(scores, 0, n_latents)
    first = np.searchsorted(ranking.prototype, np.arange(n_latents))
    at = np.flatnonzero((np.arange(len(ranking.unit)) - first[ranking.prototype] < top) & (ranking.value > 0))
    out = np.zeros((n_latents, n_images), np.float32)
    out[ranking.prototype[at], ranking.unit[at]] = 1
    return out
