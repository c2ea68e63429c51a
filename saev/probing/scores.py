"""Numbers of probes that score every class of every row, tokens or images, in resamples of the images."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64

from saev.metrics.resampling import MIN_IMAGES
from saev.metrics.segmentation import accuracy, accuracy_of_sets, mean_iou, overlap_by_image
from saev.probing.bootstrap import ColumnCodes, average_precisions
from saev.probing.rows import ends, mean_of_classes, none_if_nan


class Resampled(NamedTuple):
    """Numbers of each resample; the AP is NaN for a class without a score or without a row."""

    ap: Float64[np.ndarray, "classes n"]
    accuracy: Float64[np.ndarray, " n"]  # of rows; of (row, class) pairs where a row may have several classes
    miou: Float64[np.ndarray, " n"]

    def intervals(self, estimates: Mapping[str, float | None], n_images: int) -> dict[str, float | None]:
        """`<name>_low` and `<name>_high` of these estimates of `map`, `accuracy` and `miou`; None for fewer than MIN_IMAGES images."""
        values = {"map": mean_of_classes(self.ap), "accuracy": self.accuracy, "miou": self.miou}
        found: dict[str, float] = {}
        for name, estimate in estimates.items():
            found |= ends(name, values[name], None if n_images < MIN_IMAGES else estimate)
        return {name: none_if_nan(value) for name, value in found.items()}


def resampled(
    log_odds: Float[np.ndarray, "rows classes"],
    labels: Int64[np.ndarray, " rows"] | Bool[np.ndarray, "rows classes"],
    image: Int64[np.ndarray, " rows"],
    drawn: Int64[np.ndarray, "images n"],
) -> Resampled:
    """The numbers of the rows in each resample of the images.

    Predicted is the class of the largest log-odds, or every class with positive ones. A row of another class (label C) is a negative
    of each class and has no accuracy. Log-odds are NaN for a class without a probe.
    """
    n_images, n_classes = len(drawn), log_odds.shape[1]
    rows, ap = np.bincount(image, minlength=n_images), np.full((n_classes, drawn.shape[1]), np.nan)
    for c in range(n_classes):
        positive = labels == c if labels.ndim == 1 else labels[:, c]
        if positive.any() and not np.isnan(log_odds[0, c]):
            positives = np.bincount(image[positive], minlength=n_images)
            ap[c] = average_precisions(ColumnCodes(log_odds[:, c], positive, image, rows, positives), drawn)
    scores = torch.from_numpy(np.where(np.isnan(log_odds), -np.inf, log_odds))
    overlap = overlap_by_image(scores, torch.from_numpy(labels), torch.from_numpy(image), n_images).numpy()
    sums, n = torch.from_numpy(np.einsum("jic,in->njc", overlap, drawn)), torch.from_numpy(rows @ drawn)
    hits = [accuracy(x) if labels.ndim == 1 else accuracy_of_sets(x, m) for x, m in zip(sums, n, strict=True)]
    return Resampled(ap, np.array([float(x) for x in hits]), np.array([float(mean_iou(x)) for x in sums]))
