"""How far numbers of one split would move with other images: the bootstrap over images.

A resample draws as many images as there are, with replacement; all tokens of an image come and go together. What a winner's
numbers need of each image is counted once, and a resample is a product of these counts with the images' multiplicities.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.sparse import csr_matrix

from saev.probing.counts.bins import MANTISSA, ordered
from saev.probing.ranking.rank_sums import rank_sums
from saev.probing.settings import Weights

BITS = 6


class ColumnCodes(NamedTuple):
    """What one column's codes and one class's labels say, image by image."""

    values: Float[np.ndarray, " firing"]  # the codes that are not 0
    positive: Bool[np.ndarray, " firing"]  # whether the token is of the class
    image: Int64[np.ndarray, " firing"]
    tokens: Int64[np.ndarray, " images"]  # all tokens
    positives: Int64[np.ndarray, " images"]  # those of the class


class Interval(NamedTuple):
    """Percentiles of the resamples."""

    low: float
    high: float


def draws(n_images: int, n: int, seed: int = 0) -> Int64[np.ndarray, "images n"]:
    """How often each image is in each of n resamples."""
    rng = np.random.default_rng(seed)
    return np.ascontiguousarray(rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=n).T)


def average_precisions(evidence: ColumnCodes, drawn: Int64[np.ndarray, "images n"]) -> Float64[np.ndarray, " n"]:
    """The AP of each resample, ties as in `ranking.average_precision`; NaN where it has no token of the class.

    Codes within 1/64 of each other tie: it moves an AP by 1e-5 or so, and makes the resamples of dense codes affordable.
    """
    bins = ordered(torch.from_numpy(evidence.values)).numpy() >> (MANTISSA - BITS)
    distinct, group = np.unique(-bins, return_inverse=True)  # highest first
    silent_at = int(np.searchsorted(distinct, 0, "right"))  # a positive code's bin is 0 or above
    group = group + (group >= silent_at)
    n_groups, n_images = len(distinct) + 1, len(evidence.tokens)

    def resampled(chosen: np.ndarray, totals: Int64[np.ndarray, " images"]) -> np.ndarray:
        """Tokens of each group in each resample; of the silent group what is left of the totals."""
        where = group[chosen], evidence.image[chosen]
        fired = csr_matrix((np.ones(len(where[0]), np.int64), where), shape=(n_groups, n_images))
        out = fired @ drawn
        out[silent_at] = totals @ drawn - out.sum(0)
        return out

    size = resampled(np.ones(len(group), bool), evidence.tokens)
    p = resampled(evidence.positive, evidence.positives)
    above, hits = size.cumsum(0) - size, p.cumsum(0) - p
    there = p > 0
    inverse, places = (s.numpy() for s in rank_sums(torch.from_numpy(above[there]), torch.from_numpy(size[there])))
    g, p_there = size[there].astype(float), p[there].astype(float)
    slope = places / np.maximum(g - 1, 1)
    terms = np.zeros(p.shape)
    terms[there] = p_there / g * ((hits[there] + 1) * inverse + (p_there - 1) * slope)
    n_positive = p.sum(0)
    return np.where(n_positive > 0, terms.sum(0) / np.maximum(n_positive, 1), np.nan)


def cross_entropies(
    evidence: ColumnCodes, b: float, w: float, drawn: Int64[np.ndarray, "images n"], weights: Weights
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Of each resample the cross-entropy (nats) of sigmoid(b + w x), and that of predicting the resample's own prevalence.

    Sums over the resample's tokens; balanced, half of the mean over its tokens of the class and half of that over the others,
    and NaN where it lacks either.
    """
    negative, positive = (losses @ drawn for losses in image_losses(evidence, b, w))
    if weights == "none":
        return negative + positive, entropies(evidence, drawn)
    n_positive = evidence.positives @ drawn
    n_negative = evidence.tokens @ drawn - n_positive
    both = (n_positive > 0) & (n_negative > 0)
    loss = (negative / np.maximum(n_negative, 1) + positive / np.maximum(n_positive, 1)) / 2
    return np.where(both, loss, np.nan), np.where(both, np.log(2), np.nan)


def image_losses(
    evidence: ColumnCodes, b: float, w: float
) -> tuple[Float64[np.ndarray, " images"], Float64[np.ndarray, " images"]]:
    """The sums over each image's tokens that are not of the class, and over those that are, of the cross-entropy (nats) of
    sigmoid(b + w x)."""
    score = b + w * evidence.values.astype(float)
    n = len(evidence.tokens)
    fired = np.bincount(evidence.image, minlength=n)
    fired_positives = np.bincount(evidence.image[evidence.positive], minlength=n)
    negative = np.bincount(evidence.image, np.logaddexp(0, score) * ~evidence.positive, minlength=n)
    positive = np.bincount(evidence.image, np.logaddexp(0, -score) * evidence.positive, minlength=n)
    silent, silent_positives = evidence.tokens - fired, evidence.positives - fired_positives
    # not in place: of no values bincount makes integers
    negative = negative + (silent - silent_positives) * np.logaddexp(0, b)
    return negative, positive + silent_positives * np.logaddexp(0, -b)


def entropies(evidence: ColumnCodes, drawn: Int64[np.ndarray, "images n"]) -> Float64[np.ndarray, " n"]:
    """The sum over the tokens of each resample of the cross-entropy of predicting its own prevalence."""
    tokens, positives = evidence.tokens @ drawn, evidence.positives @ drawn
    share = torch.from_numpy(positives / np.maximum(tokens, 1))
    entropy = -(torch.xlogy(share, share) + torch.special.xlog1py(1 - share, -share))
    return entropy.numpy() * tokens


def interval(values: Float64[np.ndarray, " n"], found: float, level: float = 0.95) -> Interval:
    """The middle `level` of the resamples that have a value, moved so that their mean is what was found; NaN where none has.

    Resamples have fewer different images, so that ranking them is easier and their mean too high: that is taken off.
    """
    values = values[np.isfinite(values)]
    if len(values) == 0 or not np.isfinite(found):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) + (found - values.mean())
    return Interval(float(low), float(high))
