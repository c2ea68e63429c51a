"""L1 logistic regressions on the pooled codes of all latents together, beside ones on pooled raw activations.

Nested folds of whole clusters: the penalty is chosen on inner folds of the training clusters, predictions are of held-out ones.
Fitted by scikit-learn (liblinear; raw activations L2 by lbfgs), groups weighted equally.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from threadpoolctl import threadpool_limits

from saev.contrasts.permutation import permuted_labels
from saev.contrasts.resampled import drawn_clusters, enough
from saev.contrasts.sides import Sides, folds_of
from saev.metrics.resampling import Interval, interval
from saev.probing.sparse.linear_fits import fit_converges, parameters
from saev.scoring.blocks import Scores, size

FACTORS = tuple(np.geomspace(1.25, 300, 8).tolist())  # C of the L1 fits, times the smallest with a weight that is not 0
RIDGES = tuple(np.geomspace(1e-4, 1, 5).tolist())  # C of the L2 fits
INNER = 3
Features = csr_array | np.ndarray  # float [images, features]


class Accuracy(NamedTuple):
    """Balanced accuracy on held-out images: the mean of both groups' recalls."""

    balanced: float
    interval: Interval  # 95 %, over resamples of the clusters; NaN where a group has few


class Classifier(NamedTuple):
    """The regressions of a pair."""

    codes: Accuracy
    raw: Accuracy | None  # None: no raw activations
    permuted: Accuracy  # on codes, with the groups of clusters permuted: about 0.5
    c: float  # of the fit to all images: FACTORS that most outer folds chose, times the smallest C
    latents: Int64[np.ndarray, " kept"]  # with a weight in the fit to all images, by descending |weight|
    weights: Float64[np.ndarray, " kept"]  # of codes divided by their largest; positive: for group a
    frequency: Float64[np.ndarray, " kept"]  # fraction of the outer folds whose fit has a weight for the latent
    path_latents: Float64[np.ndarray, " factors"]  # number of latents for each of FACTORS, mean over inner fits
    path_accuracy: Float64[np.ndarray, " factors"]  # their balanced accuracy on inner held-out images


class Nested(NamedTuple):
    """What the nested folds give."""

    said_a: Bool[np.ndarray, " images"]  # predictions of held-out images
    chosen: Int64[np.ndarray, " folds"]  # number of the penalty
    kept: Float64[np.ndarray, " features"]  # number of outer fits with a weight
    sizes: Float64[np.ndarray, " penalties"]  # mean over inner fits
    accuracies: Float64[np.ndarray, " penalties"]


Fit = Callable[[Features, Bool[np.ndarray, " images"], int], LogisticRegression]


def classify(
    scores: Scores,
    raw: Float[np.ndarray, "rows d_model"] | None,
    sides: Sides,
    n_folds: int = 5,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Classifier | None:
    """The regressions of a pair; None where a group has fewer than three clusters, or no latent fires.

    `raw`: pooled activations of all rows.
    """
    n_folds = min(n_folds, int(np.bincount(sides.cluster_is_a).min()))
    _, n_latents = size(scores)
    codes = csr_array(scores[sides.rows], dtype=np.float64)
    fires = np.flatnonzero(np.bincount(codes.indices, codes.data != 0, n_latents))
    if n_folds < 3 or not len(fires):
        return None
    codes = csr_array(codes[:, fires])
    drawn = drawn_clusters(sides, bootstrap if enough(sides) else 0, seed)[:, sides.cluster]
    groups = permuted_labels(sides, 1, seed)[0] > 0
    with threadpool_limits(1):
        nested = nested_fits(codes, sides.cluster_is_a, sides.cluster, lasso, len(FACTORS), n_folds, seed)
        permuted = nested_fits(codes, groups, sides.cluster, lasso, len(FACTORS), n_folds, seed)
        most = int(np.bincount(nested.chosen).argmax())
        model = lasso(scaled(codes, np.ones(sides.n_images, bool)), sides.is_a, most)
        on_raw = None
        if raw is not None:
            x = raw[sides.rows].astype(np.float64)
            fits = nested_fits(x, sides.cluster_is_a, sides.cluster, ridge, len(RIDGES), n_folds, seed)
            on_raw = accuracy(fits.said_a, sides.is_a, drawn)
    weights, _ = parameters(model)
    kept = np.flatnonzero(weights)
    kept = kept[np.argsort(-np.abs(weights[kept]), kind="stable")]
    return Classifier(
        accuracy(nested.said_a, sides.is_a, drawn),
        on_raw,
        accuracy(permuted.said_a, groups[sides.cluster], drawn),
        float(model.C),
        fires[kept],
        weights[kept],
        nested.kept[kept] / n_folds,
        nested.sizes,
        nested.accuracies,
    )


def lasso(x: Features, y: Bool[np.ndarray, " images"], penalty: int) -> LogisticRegression:
    """An L1 fit with C = FACTORS[penalty] x the smallest C at which a weight is not 0."""
    largest = np.abs(x.T @ np.where(y, 1.0, -1.0)).max()  # as in sklearn.svm.l1_min_c, which ends on silent features
    c = FACTORS[penalty] * (2 / largest if largest > 0 else 1.0)
    model = LogisticRegression(
        C=c, l1_ratio=1, solver="liblinear", class_weight="balanced", intercept_scaling=10, tol=1e-2, random_state=0
    )
    fit_converges(model, x, y)
    return model


def ridge(x: Features, y: Bool[np.ndarray, " images"], penalty: int) -> LogisticRegression:
    """An L2 fit with C = RIDGES[penalty]."""
    model = LogisticRegression(C=RIDGES[penalty], class_weight="balanced", tol=1e-3, max_iter=1000)
    fit_converges(model, x, y)
    return model


def nested_fits(
    x: Features,
    cluster_is_a: Bool[np.ndarray, " clusters"],
    cluster: Int64[np.ndarray, " images"],
    fit: Fit,
    n_penalties: int,
    n_folds: int,
    seed: int,
) -> Nested:
    """Predictions of the held-out images of each outer fold, by the penalty with the highest balanced accuracy on inner folds.

    Of equal ones the first. Features are scaled on the images that a model is fitted to.
    """
    fold = folds_of(cluster_is_a, n_folds, seed)
    is_a, said = cluster_is_a[cluster], np.zeros(len(cluster), bool)
    kept, chosen = np.float64(0), np.zeros(n_folds, np.int64)
    sizes, accuracies = np.full((2, n_folds, INNER, n_penalties), np.nan)  # NaN: fewer inner folds
    for outer in range(n_folds):
        training = np.flatnonzero(fold != outer)
        n_inner = min(INNER, int(np.bincount(cluster_is_a[training]).min()))
        inner = np.full(len(fold), -1)
        inner[training] = folds_of(cluster_is_a[training], n_inner, seed + 1)
        of_image = inner[cluster]
        for number in range(n_inner):
            held, train = of_image == number, (of_image >= 0) & (of_image != number)
            z = scaled(x, train)
            for penalty in range(n_penalties):
                model = fit(z[train], is_a[train], penalty)
                said_a = np.asarray(model.predict(z[held]), bool)
                accuracies[outer, number, penalty] = accuracy(said_a, is_a[held]).balanced
                sizes[outer, number, penalty] = np.count_nonzero(parameters(model)[0])
        chosen[outer] = np.argmax(np.round(accuracies[outer, :n_inner].mean(0), 9))
        held, train = of_image < 0, of_image >= 0
        z = scaled(x, train)
        model = fit(z[train], is_a[train], int(chosen[outer]))
        said[held] = model.predict(z[held])
        kept = kept + (parameters(model)[0] != 0)
    return Nested(said, chosen, np.asarray(kept), np.nanmean(sizes, (0, 1)), np.nanmean(accuracies, (0, 1)))


def scaled(x: Features, train: Bool[np.ndarray, " images"]) -> Any:
    """The features: sparse ones divided by the largest of the training images, dense ones standardised by these."""
    scaler = StandardScaler() if isinstance(x, np.ndarray) else MaxAbsScaler()
    return scaler.fit(x[np.flatnonzero(train)]).transform(x)


def accuracy(
    said_a: Bool[np.ndarray, " images"],
    is_a: Bool[np.ndarray, " images"],
    drawn: Int64[np.ndarray, "n images"] | None = None,
) -> Accuracy:
    """The balanced accuracy of predictions, and its interval over resamples."""
    once = np.ones((1, len(is_a)), np.int64)
    weight = once if drawn is None else np.concatenate([once, drawn])
    right = said_a == is_a
    totals = [(weight @ group, weight @ (group & right)) for group in (is_a, ~is_a)]
    values = np.mean([hits / np.where(total > 0, total, np.nan) for total, hits in totals], 0)
    return Accuracy(float(values[0]), interval(values[1:], float(values[0])))
