"""Downstream preservation: a classifier of mean activations, applied to mean reconstructions; as ViSAEBench defines it."""

import numpy as np
from jaxtyping import Int, Int64
from sklearn.linear_model import LogisticRegression

from saev.dictionary_bench.class_statistics import (
    SEED,
    TEST_FRACTION,
    labelled,
    logistic_regression,
    resampled_mean,
    resampled_rows,
    split,
)
from saev.dictionary_bench.image_codes import ImageActivations, ImageCodes
from saev.dictionary_bench.measured import Measured

MAX_ITER = 1000
Classifier = tuple[LogisticRegression, Int64[np.ndarray, " test"], Int64[np.ndarray, " test"]]


def classifier(
    images: ImageActivations, labels: Int[np.ndarray, " images"], test_fraction: float = TEST_FRACTION, seed: int = SEED
) -> Classifier:
    """A logistic regression of activations averaged over the tokens of each image, fitted on the training images; the rows of the
    test images and their classes. `labels`: a class per image, negative: none. It is the same for all dictionaries of a pass."""
    rows, classes = labelled(labels, "downstream preservation")
    train, test = split(classes, test_fraction, seed)
    return logistic_regression(images.mean[rows[train]], classes[train], MAX_ITER, seed), rows[test], classes[test]


def preservation(codes: ImageCodes, fitted: Classifier, draws: Int64[np.ndarray, "images n"] | None = None) -> Measured:
    """Accuracy on reconstructions over accuracy on activations, on the test images; at most 2. `n`: test images.

    Null: every reconstruction replaced by the mean activation. `draws` resample the test images; the classifier stays.
    details: `accuracy_original`, `accuracy_reconstructed`. NaN where the classifier is right on no image.
    """
    model, rows, classes = fitted
    mean = np.average(codes.images.mean, axis=0, weights=codes.images.tokens)[None]
    predicted = [model.predict(x) for x in (codes.images.mean[rows], codes.reconstruction[rows], mean)]
    correct = np.stack([np.broadcast_to(p, len(rows)) == classes for p in predicted]).astype(np.float64)
    original, reconstructed, constant = correct.mean(1).tolist()
    details = {"accuracy_original": original, "accuracy_reconstructed": reconstructed}
    if original == 0:
        reason = "the classifier of activations is right on no test image"
        return Measured(float("nan"), n=len(rows), details={**details, "reason": reason})
    top, bottom = resampled_mean(correct[[1, 0]], resampled_rows(draws, rows))
    resampled = np.minimum(np.divide(top, bottom, where=bottom > 0, out=np.full_like(top, np.nan)), 2)
    return Measured(
        min(reconstructed / original, 2.0),
        constant / original,
        len(rows),
        resampled,
        details=details,
        units=correct[1] / original,
    )
