"""How many latents fire and how often: L0, dead and dense latents, from a dictionary's codes by image."""

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import csc_matrix

from saev.dictionary_bench.image_codes import ImageCodes
from saev.dictionary_bench.measured import Measured

DENSE = 0.1  # of the tokens
CERTAIN = 50  # images: of so many a resample has at least one (it has none with probability exp(-50))
FAR = 8.0  # standard errors
SLAB = 1024  # latents, whose firings in all resamples are in memory together


def activity(codes: ImageCodes, draws: Int64[np.ndarray, "images n"] | None = None) -> dict[str, Measured]:
    """l0, dead and dense_above_0.1 of the tokens of all images, and in each resample of the images.

    l0: latents that fire on a token, on average; units: per image, its firings over the mean number of tokens. dead, dense_above_0.1:
    fractions of the latents that fire on no token, on over a tenth of the tokens. A resample lacks a third of the images, so that
    more latents are silent on it: intervals are shifted to the value, as all are.
    """
    active = csc_matrix(codes.matrix(codes.active.astype(np.float64)))
    tokens = codes.images.tokens.astype(np.float64)
    by_image = np.asarray(active.sum(1)).ravel()
    frequency = codes.firings / tokens.sum()
    numbers = np.zeros(0), np.zeros(0), np.zeros(0)
    if draws is not None:
        total = tokens @ draws
        numbers = (by_image @ draws / total, *_fractions(codes, active, frequency, tokens, draws))
    value = float(by_image.sum() / tokens.sum())
    dead, dense = float((frequency == 0).mean()), float((frequency > DENSE).mean())
    return {
        "l0": Measured(value, n=int(tokens.sum()), draws=numbers[0], units=by_image / tokens.mean()),
        "dead": Measured(dead, n=codes.n_latents, draws=numbers[1]),
        "dense_above_0.1": Measured(dense, n=codes.n_latents, draws=numbers[2]),
    }


def _fractions(
    codes: ImageCodes,
    active: csc_matrix,
    frequency: Float64[np.ndarray, " latents"],
    tokens: Float64[np.ndarray, " images"],
    draws: Int64[np.ndarray, "images n"],
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Fractions of dead and of dense latents in each resample; not of latents that are CERTAIN
    to fire, or FAR from DENSE."""
    rare = np.flatnonzero((codes.images_active > 0) & (codes.images_active < CERTAIN))
    squares = (
        np.asarray(active.power(2).sum(0)).ravel()
        - 2 * frequency * (active.T @ tokens)
        + frequency**2 * (tokens**2).sum()
    )
    error = np.sqrt(np.maximum(squares, 0)) / tokens.sum()
    near = np.flatnonzero(np.abs(frequency - DENSE) < FAR * error)
    far = np.ones(codes.n_latents, bool)
    far[near] = False
    dead = np.full(draws.shape[1], np.count_nonzero(frequency == 0), np.float64)
    dense = np.full(draws.shape[1], np.count_nonzero((frequency > DENSE) & far), np.float64)
    total = tokens @ draws
    for latents, count, fires in ((rare, dead, lambda n: n == 0), (near, dense, lambda n: n > DENSE * total)):
        for start in range(0, len(latents), SLAB):
            count += fires(active[:, latents[start : start + SLAB]].T @ draws).sum(0)
    return dead / codes.n_latents, dense / codes.n_latents
