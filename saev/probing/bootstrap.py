"""The bootstrap over images: how much the numbers of the validation tokens vary with the images.

A resample draws as many images as there are, with replacement; all tokens of an image are drawn together. Sums per image are
computed once; those of a resample are their product with the images' multiplicities.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from scipy.sparse import csr_matrix
from torch import Tensor

from saev.metrics.ranking import precision_sums
from saev.metrics.resampling import Interval as Interval
from saev.metrics.resampling import draws as draws
from saev.metrics.resampling import interval as interval
from saev.ops.sparse import SparseCodes
from saev.probing.counts.entries import Labels, labelled_tokens
from saev.probing.counts.table import MANTISSA, ordered
from saev.probing.settings import Weights

BITS = 6


class ColumnCodes(NamedTuple):
    """The codes of one column, and which of its tokens are of one class."""

    values: Float[np.ndarray, " firing"]  # non-zero codes
    positive: Bool[np.ndarray, " firing"]  # whether the token is of the class
    image: Int64[np.ndarray, " firing"]
    tokens: Int64[np.ndarray, " images"]  # all tokens
    positives: Int64[np.ndarray, " images"]  # those of the class


def average_precisions(codes: ColumnCodes, drawn: Int64[np.ndarray, "images n"]) -> Float64[np.ndarray, " n"]:
    """The AP of each resample, ties as in `ranking.average_precision`; NaN where it has no token of the class.

    Codes within a relative 1/64 of each other tie: this changes an AP by about 1e-5 with ten
    thousand tokens (3e-3 with 200) and bounds the cost of dense codes.
    """
    bins = ordered(torch.from_numpy(codes.values)).numpy() >> (MANTISSA - BITS)
    distinct, group = np.unique(-bins, return_inverse=True)  # highest first
    silent_at = int(np.searchsorted(distinct, 0, "right"))  # a positive code's bin is 0 or above
    group = group + (group >= silent_at)
    n_groups, n_images = len(distinct) + 1, len(codes.tokens)

    def resampled(chosen: np.ndarray, totals: Int64[np.ndarray, " images"]) -> np.ndarray:
        """Tokens of each group in each resample; the silent group has the rest of the totals."""
        where = group[chosen], codes.image[chosen]
        fired = csr_matrix((np.ones(len(where[0]), np.int64), where), shape=(n_groups, n_images))
        out = fired @ drawn
        out[silent_at] = totals @ drawn - out.sum(0)
        return out

    size = resampled(np.ones(len(group), bool), codes.tokens)
    p = resampled(codes.positive, codes.positives)
    terms = precision_sums(torch.from_numpy(np.ascontiguousarray(p.T)), torch.from_numpy(np.ascontiguousarray(size.T)))
    n_positive = p.sum(0)
    return np.where(n_positive > 0, terms.sum(1).numpy() / np.maximum(n_positive, 1), np.nan)


def cross_entropies(
    codes: ColumnCodes, b: float, w: float, drawn: Int64[np.ndarray, "images n"], weights: Weights
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Cross-entropy (nats) of sigmoid(b + w x) in each resample, and that of predicting the resample's prevalence.

    Sums over the resample's tokens; balanced: half the mean over its tokens of the class plus half the mean over the others,
    NaN where it lacks either.
    """
    negative, positive = (losses @ drawn for losses in image_losses(codes, b, w))
    if weights == "none":
        return negative + positive, entropies(codes, drawn)
    n_positive = codes.positives @ drawn
    n_negative = codes.tokens @ drawn - n_positive
    both = (n_positive > 0) & (n_negative > 0)
    loss = (negative / np.maximum(n_negative, 1) + positive / np.maximum(n_positive, 1)) / 2
    return np.where(both, loss, np.nan), np.where(both, np.log(2), np.nan)


def image_losses(
    codes: ColumnCodes, b: float, w: float
) -> tuple[Float64[np.ndarray, " images"], Float64[np.ndarray, " images"]]:
    """Cross-entropy (nats) of sigmoid(b + w x), summed over each image's (negative, positive) tokens."""
    score = b + w * codes.values.astype(float)
    n = len(codes.tokens)
    fired = np.bincount(codes.image, minlength=n)
    fired_positives = np.bincount(codes.image[codes.positive], minlength=n)
    negative = np.bincount(codes.image, np.logaddexp(0, score) * ~codes.positive, minlength=n)
    positive = np.bincount(codes.image, np.logaddexp(0, -score) * codes.positive, minlength=n)
    silent, silent_positives = codes.tokens - fired, codes.positives - fired_positives
    # not in place: bincount of no values returns integers
    negative = negative + (silent - silent_positives) * np.logaddexp(0, b)
    return negative, positive + silent_positives * np.logaddexp(0, -b)


def entropies(codes: ColumnCodes, drawn: Int64[np.ndarray, "images n"]) -> Float64[np.ndarray, " n"]:
    """Cross-entropy (nats) of predicting the resample's prevalence, summed over its tokens."""
    tokens, positives = codes.tokens @ drawn, codes.positives @ drawn
    prevalence = torch.from_numpy(positives / np.maximum(tokens, 1))
    entropy = -(torch.xlogy(prevalence, prevalence) + torch.special.xlog1py(1 - prevalence, -prevalence))
    return entropy.numpy() * tokens


class FiringTokens:
    """The columns' non-zero codes of one dictionary, and the labels and images of all validation tokens.

    Memory: 16 bytes per non-zero code (twice that while `finish` sorts), and per token its labels and 4 bytes.
    """

    def __init__(self, n_images: int):
        self.n_images, self.n_tokens = n_images, 0
        self.parts: dict[str, list[np.ndarray]] = {name: [] for name in ("row", "column", "value", "labels", "image")}

    def update(
        self,
        codes: SparseCodes,
        labels: Labels,
        image: Int[Tensor, " tokens"],
        counted: Bool[Tensor, " tokens"] | None = None,
    ) -> None:
        """Add a batch; unlabelled tokens are left out. `image` is 0 to n_images - 1."""
        known = labelled_tokens(labels, counted).cpu()
        row = torch.repeat_interleave(codes.offsets.diff(), output_size=len(codes.latents)).cpu()
        row_index = known.cumsum(0) - 1 + self.n_tokens
        kept = known[row] & (codes.values != 0).cpu()
        for name, part in (
            ("row", row_index[row[kept]]),
            ("column", codes.latents.cpu()[kept].int()),
            ("value", codes.values.cpu()[kept].float()),
            ("labels", labels.cpu()[known]),
            ("image", image.cpu()[known].int()),
        ):
            self.parts[name].append(part.numpy())
        self.n_tokens += int(known.sum())

    def finish(self) -> None:
        """Join the batches and sort them by column."""
        joined = {name: np.concatenate(self.parts.pop(name)) for name in list(self.parts)}
        order = np.argsort(joined["column"], kind="stable")
        self.row, self.column, self.value = (joined.pop(name)[order] for name in ("row", "column", "value"))
        self.labels, self.image = joined["labels"], joined["image"]
        self.tokens = np.bincount(self.image, minlength=self.n_images)

    def of_class(self, number: int) -> Bool[np.ndarray, " tokens"]:
        """Which tokens are of a class."""
        return self.labels == number if self.labels.ndim == 1 else self.labels[:, number]

    def positives(self, number: int) -> Int64[np.ndarray, " images"]:
        """Tokens of a class in each image."""
        return np.bincount(self.image[self.of_class(number)], minlength=self.n_images)

    def of(self, column: int, number: int) -> ColumnCodes:
        """The codes of one column, with the labels of one class."""
        block = slice(*np.searchsorted(self.column, [column, column + 1]))
        rows = self.row[block]
        return ColumnCodes(
            self.value[block],
            self.of_class(number)[rows],
            self.image[rows].astype(np.int64),
            self.tokens,
            self.positives(number),
        )
