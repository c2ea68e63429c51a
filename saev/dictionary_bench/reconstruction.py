"""Reconstruction error: our NMSE, and ViSAEBench's fraction of variance unexplained (FVU), which differs from it."""

import numpy as np
from jaxtyping import Float64, Int64

from saev.dictionary_bench.image_codes import ImageCodes
from saev.dictionary_bench.measured import Measured


def nmse(codes: ImageCodes, draws: Int64[np.ndarray, "images n"] | None = None) -> Measured:
    """Sum of squared errors over the sum of squared distances from the mean activation (saev.metrics); `n`: tokens.

    Null: 1, the mean activation for every token.
    """
    columns = np.stack([codes.residual_square, codes.images.variation])
    error, variation = columns.sum(1)
    resampled = np.zeros(0) if draws is None else np.divide(*(columns @ draws))
    units = codes.residual_square * len(codes.images) / variation
    return Measured(float(error / variation), 1.0, int(codes.images.tokens.sum()), resampled, units=units)


def fvu(codes: ImageCodes, draws: Int64[np.ndarray, "images n"] | None = None) -> Measured:
    """ViSAEBench's FVU: (A2 / n - (A1 / n)^2) of the residuals over the same of the activations, `n` tokens, A1 being the sum over all
    tokens and dimensions and A2 that of squares; inf where the denominator is not positive.

    It is not the variance of anything, for it divides by tokens what it sums over dimensions: a bias b in all d dimensions
    changes A2 / n - (A1 / n)^2 by d b^2 - d^2 b^2, so that a worse reconstruction scores better, below 0 too. It stands here to
    compare with published numbers; `nmse` is the measure. details: `over_scalars`, the variance of all scalars about one grand
    mean (which no constant error changes).
    Null: the mean activation for every token.
    """
    images, n = codes.images, codes.images.tokens.sum()
    columns = np.stack([images.tokens, codes.residual_total, codes.residual_square, images.total, images.square])
    sums = columns.sum(1)[:, None]
    d_model = images.mean.shape[1]
    mean = np.stack([n, 0, images.variation.sum(), *sums[3:, 0]])[:, None]
    details: dict[str, float | str] = {"over_scalars": float(_ratio(sums, d_model)[0]), "nmse": nmse(codes).value}
    value = float(_ratio(sums, 1)[0])
    if not np.isfinite(value):
        details["reason"] = "its denominator is not positive"
    resampled = np.zeros(0) if draws is None else _ratio(columns @ draws, 1)
    return Measured(value, float(_ratio(mean, 1)[0]), int(n), resampled, details=details)


def _ratio(sums: Float64[np.ndarray, "5 n"], dimensions: int) -> Float64[np.ndarray, " n"]:
    """Of the sums of tokens, residuals, their squares, activations, their squares; over `dimensions` times the tokens."""
    n = sums[0] * dimensions
    residual, whole = (square / n - (total / n) ** 2 for total, square in (sums[1:3], sums[3:5]))
    return np.divide(residual, whole, where=whole > 0, out=np.full_like(whole, np.inf))
