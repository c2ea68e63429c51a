"""What the measures of labelled images share: the split, F statistics of all latents in one sparse product, logistic regressions."""

import warnings

import numpy as np
from jaxtyping import Float, Float64, Int, Int64
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from saev.metrics.resampling import MIN_IMAGES

TEST_FRACTION, SEED = 0.2, 42  # ViSAEBench's
LEAST = 1e-12  # of the sum of squares: variation below it is rounding


def split(
    classes: Int[np.ndarray, " images"], test_fraction: float = TEST_FRACTION, seed: int = SEED
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " test"]]:
    """Training and test rows, stratified by class; not stratified where a class has a single image, or a side fewer images than
    there are classes."""
    counts = np.unique(classes, return_counts=True)[1]
    n_test = int(np.ceil(test_fraction * len(classes)))
    stratified = counts.min() >= 2 and len(counts) <= min(n_test, len(classes) - n_test)
    rows = np.arange(len(classes))
    train, test = train_test_split(
        rows, test_size=test_fraction, stratify=classes if stratified else None, random_state=seed
    )
    return np.asarray(train), np.asarray(test)


def class_sums(
    codes: csr_matrix, classes: Int[np.ndarray, " images"]
) -> tuple[Float64[np.ndarray, "classes latents"], Int64[np.ndarray, " classes"]]:
    """The sum of the codes over the images of each class 0, 1, ..., and how many they are."""
    counts = np.bincount(classes)
    images = np.arange(len(classes))
    members = csr_matrix((np.ones(len(classes)), (classes, images)), (len(counts), len(classes)))
    return csr_matrix(members @ codes).toarray(), counts


def f_statistics(codes: csr_matrix, classes: Int[np.ndarray, " images"]) -> Float64[np.ndarray, " latents"]:
    """The F statistic of each latent's codes (rows are images), classes 0, 1, ... being the groups: scikit-learn's `f_classif`.

    -inf for a latent whose codes are all equal, inf where they are equal within each class.
    """
    sums, counts = class_sums(codes, classes)
    present = counts > 0
    between = (sums[present] ** 2 / counts[present, None]).sum(0)
    return _f_statistics(codes, len(classes), between, int(present.sum()))


def f_statistics_of_each_class(
    codes: csr_matrix, classes: Int[np.ndarray, " images"]
) -> Float64[np.ndarray, "classes latents"]:
    """The same for each class against all others."""
    sums, counts = class_sums(codes, classes)
    counts, others = counts[:, None], len(classes) - counts[:, None]
    rest = sums.sum(0) - sums
    between = np.divide(sums**2, counts, where=counts > 0, out=np.zeros_like(sums))
    between += np.divide(rest**2, others, where=others > 0, out=np.zeros_like(sums))
    return _f_statistics(codes, len(classes), between, 2)


def _f_statistics(
    codes: csr_matrix, n: int, between: Float64[np.ndarray, "*classes latents"], groups: int
) -> Float64[np.ndarray, "*classes latents"]:
    """Of `n` images; `between`: the sum over groups of squared sums over sizes."""
    square, total = (np.ones(n) @ values for values in (codes.power(2), codes))
    constant = total**2 / n
    explained, rest = between - constant, square - between
    explained = np.where(explained > LEAST * square, explained, 0)
    rest = np.where(rest > LEAST * square, rest, 0)
    ratio = np.divide(explained, rest, where=rest > 0, out=np.where(explained > 0, np.inf, -np.inf))
    return np.where(np.isfinite(ratio), ratio * (n - groups) / max(groups - 1, 1), ratio)


def descending(scores: Float64[np.ndarray, " latents"], most: int) -> Int64[np.ndarray, " most"]:
    """The latents of the largest scores, the first of equal ones first."""
    return np.argsort(-scores, kind="stable")[:most]


def logistic_regression(
    x: Float[np.ndarray, "images features"], classes: Int[np.ndarray, " images"], max_iter: int, seed: int = SEED
) -> LogisticRegression:
    """Fitted with scikit-learn's default solver and penalty (C = 1), on one thread."""
    model = LogisticRegression(max_iter=max_iter, random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, classes)


def labelled(
    labels: Int[np.ndarray, " images"], what: str
) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " rows"]]:
    """The rows with a label (not negative), and their classes numbered 0, 1, ...; ValueError for fewer than two classes or ten images."""
    rows = np.flatnonzero(labels >= 0)
    names, classes = np.unique(labels[rows], return_inverse=True)
    if len(names) < 2 or len(rows) < 10:
        raise ValueError(
            f"{what} needs 10 labelled images of 2 classes; {len(rows)} images are labelled, with {len(names)} classes: give labels "
            "of more images."
        )
    return rows, classes.astype(np.int64)


def resampled_rows(
    draws: Int64[np.ndarray, "images n"] | None, rows: Int64[np.ndarray, " rows"]
) -> Int64[np.ndarray, "rows n"]:
    """How often each resample has each of these images; no resample where they are fewer than MIN_IMAGES."""
    return np.zeros((len(rows), 0), np.int64) if draws is None or len(rows) < MIN_IMAGES else draws[rows]


def resampled_mean(
    values: Float[np.ndarray, "*n images"], draws: Int64[np.ndarray, "images draws"]
) -> Float64[np.ndarray, "*n draws"]:
    """The mean over the images of each resample; NaN where it has none of them."""
    n = draws.sum(0)
    return values @ draws / np.where(n > 0, n, np.nan)
