"""Partners of latents in another dictionary, over the same images: by correlation of pooled codes and by their top images."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from saev.metrics.matching import CORRELATED
from saev.scoring.blocks import ENTRIES, MOST, Scores, ahead, n_threads, size
from saev.scoring.images_of_latents import dense, standardised, top_images


class Partners(NamedTuple):
    """The partner of each given latent in another dictionary, no latent being the partner of two."""

    latent: Int64[np.ndarray, " latents"]  # -1: the other dictionary has fewer latents than were given
    correlation: Float32[np.ndarray, " latents"]  # Pearson, of pooled codes; 0 where one of the two is constant
    jaccard: Float32[np.ndarray, " latents"]  # of the top images of both: images in both / images in either
    null: Float32[
        np.ndarray, " latents"
    ]  # the largest correlation with any latent, images permuted, over the permutations

    def matched(self, threshold: float = CORRELATED) -> Bool[np.ndarray, " latents"]:
        """Whether a latent has a partner: correlation at least the threshold and above the null."""
        return (self.correlation >= threshold) & (self.correlation > self.null)


def partners(
    scores: Scores,
    latents: Int64[np.ndarray, " latents"],
    other: Scores,
    top: int = 20,
    n_null: int = 19,
    seed: int = 0,
) -> Partners:
    """One-to-one partners that maximise the sum of correlations.

    Args:
        scores, other: pooled codes of two dictionaries for the same images.
        latents: of the first dictionary.
        top: images with the largest codes of a latent, silent ones left out; of equal codes the first images.
        n_null: permutations of the images; with 19 a latent without any relation exceeds its null with probability 0.05.
    """
    given = scores[:, latents]
    standard, tops = standardised(dense(given)), top_images(given, top)
    rng = np.random.default_rng(seed)
    shuffled = np.concatenate(
        [standard[:, rng.permutation(standard.shape[1])] for _ in range(n_null)] or [standard[:0]]
    )
    n_images, n_other = size(other)
    step = min(max(ENTRIES // max(n_images, 1), 1), MOST)

    def evaluate(start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        block = other[:, start : start + step]
        candidates, images = standardised(dense(block)), top_images(block, top)
        both = tops @ images.T
        either = tops.sum(1)[:, None] + images.sum(1) - both
        null = (shuffled @ candidates.T).reshape(n_null, len(latents), len(candidates)).max((0, 2), initial=-1)
        return standard @ candidates.T, both / np.maximum(either, 1), null

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(n_threads()) as pool:
        correlations, jaccards, nulls = zip(*ahead(pool, evaluate, iter(range(0, n_other, step))), strict=True)
    correlation, jaccard = np.concatenate(correlations, 1), np.concatenate(jaccards, 1)
    given_row, partner = linear_sum_assignment(correlation, maximize=True)
    n = len(latents)
    null = np.max(nulls, 0).astype(np.float32)
    out = Partners(np.full(n, -1), np.zeros(n, np.float32), np.zeros(n, np.float32), null)
    out.latent[given_row] = partner
    out.correlation[given_row] = correlation[given_row, partner]
    out.jaccard[given_row] = jaccard[given_row, partner]
    return out


def runs_with_partner(runs: Sequence[Partners], threshold: float = CORRELATED) -> Int64[np.ndarray, " latents"]:
    """In how many of several other dictionaries each latent has a partner."""
    return np.asarray(np.sum([one.matched(threshold) for one in runs], 0, dtype=np.int64))
