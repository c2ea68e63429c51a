"""Monosemanticity: how alike the images are that activate a latent, in the embeddings of an independent encoder.

    sum_{a<b} w_a w_b cos(e_a, e_b) / sum_{a<b} w_a w_b = (|sum_a w_a e_a|^2 - sum_a w_a^2) / ((sum_a w_a)^2 - sum_a w_a^2)

with unit embeddings e, so that no pair of images is ever formed. Pach et al., "Sparse Autoencoders Learn Monosemantic Features in
Vision-Language Models" (2025).
"""

import zlib

import numpy as np
from jaxtyping import Float, Float64, Int64

from saev.dictionary_bench.image_codes import ImageCodes
from saev.dictionary_bench.measured import Measured

TOP_IMAGES = 16  # of ViSAEBench
ENTRIES = 1 << 22  # of dense [images, latents] blocks


def monosemanticity(
    codes: ImageCodes,
    embeddings: Float[np.ndarray, "images width"],
    draws: Int64[np.ndarray, "images n"] | None = None,
    top: int | None = None,
) -> Measured:
    """Mean over live latents of the weighted mean cosine of pairs of images, the weights being the latent's max-pooled code, scaled so
    that its range over the images is [0, 1].

    `top`: only the images with the largest codes, TOP_IMAGES for ViSAEBench's score; None: all images, the score of Pach et al.
    Null: the embeddings permuted among the images, on average over all permutations: the mean cosine of all pairs of images.
    `n`: latents with two images of positive weight; latents: `monosemanticity`. `draws` resample the images, by the first-order
    influence of each image on the score (the images of largest code stay; two copies of an image are no pair), and latents, by normal
    deviates of the standard error of their mean: of a latent that fires on few images, which ones these are varies between sets of
    images, but not between resamples of one.
    """
    if len(embeddings) != len(codes.images):
        raise ValueError(f"{len(embeddings)} embeddings of {len(codes.images)} images: give one for each.")
    e = embeddings.astype(np.float64)
    norms = np.linalg.norm(e, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        raise ValueError("embeddings: some are zero, NaN or infinite; leave these images out or embed them again.")
    e /= norms
    latents = np.flatnonzero(codes.live)
    scores, influence = np.full(codes.n_latents, np.nan), np.zeros(len(e))
    columns = codes.pooled.tocsc()
    for low in range(0, len(latents), block := max(1, ENTRIES // len(e))):
        some = latents[low : low + block]
        weights = range_weights(columns[:, some].toarray(), top)
        scores[some], added = weighted_cosines(weights, e)
        influence += added
    n = int(np.isfinite(scores).sum())
    if n == 0:
        return Measured(
            float("nan"), latents={"monosemanticity": scores}, details={"reason": "no latent is active on two images"}
        )
    value = float(np.nanmean(scores))
    null = (np.square(e.sum(0)).sum() - len(e)) / (len(e) * (len(e) - 1))
    resampled = np.zeros(0)
    if draws is not None:
        rng = np.random.default_rng(zlib.crc32(scores.tobytes()))  # independent of other dictionaries
        error = np.nanstd(scores) / np.sqrt(n)
        resampled = value + influence / n @ (draws - 1) + error * rng.standard_normal(draws.shape[1])
    details = {"median": float(np.nanmedian(scores)), "std": float(np.nanstd(scores))}
    return Measured(value, float(null), n, resampled, {"monosemanticity": scores}, details)


def range_weights(
    codes: Float64[np.ndarray, "images latents"], top: int | None = None
) -> Float64[np.ndarray, "images latents"]:
    """(code - smallest) / (largest - smallest) over the images of each latent, 0 beyond the `top` images; equal codes: 0, as ViSAEBench."""
    low, high = codes.min(0), codes.max(0)
    weights = (codes - low) / np.where(high > low, high - low, 1)
    if top is not None and top < len(codes):
        beyond = np.argpartition(codes, len(codes) - top, axis=0)[: len(codes) - top]
        np.put_along_axis(weights, beyond, 0.0, axis=0)
    return weights


def weighted_cosines(
    w: Float64[np.ndarray, "images latents"], e: Float64[np.ndarray, "images width"]
) -> tuple[Float64[np.ndarray, " latents"], Float64[np.ndarray, " images"]]:
    """The score of each latent (NaN with fewer than two images of positive weight); the influence of each image on the sum of scores:
    the derivative by the number of times it is drawn."""
    total, square, sums = w.sum(0), np.square(w).sum(0), w.T @ e
    numerator, denominator = np.square(sums).sum(1) - square, total**2 - square
    valid = (w > 0).sum(0) > 1
    scores = np.divide(numerator, denominator, where=valid, out=np.full(len(total), np.nan))
    w, scale, score = w[:, valid], 2 / denominator[valid], scores[valid]
    terms = w * (e @ sums[valid].T - w) - score * w * (total[valid] - w)
    return scores, terms @ scale
