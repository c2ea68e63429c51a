"""Logistic regressions beside single prototypes: on pooled raw activations (the bound), and on the best few prototypes together.

Fitted by scikit-learn on all training units (probing/sparse/linear_fits.py); penalties are chosen on training units alone.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int64
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from saev.metrics.ranking import average_precision
from saev.probing.sparse.linear_fits import fit_converges, held_out, losses, refit, standardised
from saev.scoring.blocks import Scores


def supervised(
    train: Float32[np.ndarray, "train_units d_model"],
    test: Float32[np.ndarray, "test_units d_model"],
    train_labels: Int8[np.ndarray, "train_units traits"],
    test_labels: Int8[np.ndarray, "test_units traits"],
    cluster: Int64[np.ndarray, " train_units"],
    ridges: Sequence[float],
    seed: int,
    advance: Callable[[int], None] = lambda n: None,
) -> Float64[np.ndarray, "2 traits"]:
    """(training AP, test AP) of each trait by a logistic regression on all channels, standardised on the training units."""
    mean, std = train.mean(0, np.float64), train.std(0, dtype=np.float64)
    x, z = ((side - mean) / np.where(std > 0, std, 1) for side in (train, test))

    def fit(trait: int) -> tuple[float, float]:
        known, counted = (np.flatnonzero(labels[:, trait] >= 0) for labels in (train_labels, test_labels))
        y = train_labels[known, trait] == 1
        if y.all() or not y.any():
            return np.nan, np.nan  # there is nothing to fit
        model = best_ridge(x[known], y, cluster[known], ridges, seed)
        on_train, on_test = model.decision_function(x[known]), model.decision_function(z[counted])
        return average_precision(on_train, y), average_precision(on_test, test_labels[counted, trait] == 1)

    return _each_trait(fit, train_labels.shape[1], advance)


def best_ridge(
    x: Float64[np.ndarray, "units d_model"],
    y: Bool[np.ndarray, " units"],
    cluster: Int64[np.ndarray, " units"],
    ridges: Sequence[float],
    seed: int,
) -> LogisticRegression:
    """The fit that minimises mean loss + ridge / 2 * sum of squared weights.

    Of several ridges the one with the lowest loss on a fifth of the clusters (images or groups), those with and without the trait
    each, drawn by `seed`, after a fit to the others; with fewer than five of either, the largest.
    """

    def fit(rows: np.ndarray, ridge: float) -> LogisticRegression:
        model = LogisticRegression(C=1 / (np.count_nonzero(rows) * ridge), solver="lbfgs", tol=1e-6, max_iter=2000)
        fit_converges(model, x[rows], y[rows])
        return model

    held, best = held_out(y, seed, cluster), max(ridges)
    if len(ridges) > 1 and np.bincount(y[held], minlength=2).min() > 0:
        loss = [losses(fit(~held, ridge).decision_function(x[held]), y[held]).mean() for ridge in ridges]
        best = ridges[int(np.argmin(loss))]
    return fit(np.ones(len(y), bool), best)


def several(
    train: Scores,
    test: Scores,
    train_labels: Int8[np.ndarray, "train_units traits"],
    test_labels: Int8[np.ndarray, "test_units traits"],
    all_train_aps: Float32[np.ndarray, "prototypes traits"],
    n_latents: int,
    advance: Callable[[int], None] = lambda n: None,
) -> Float64[np.ndarray, "2 traits"]:
    """(training AP, test AP) of each trait by a logistic regression on the prototypes with the largest AP on the training units."""

    def fit(trait: int) -> tuple[float, float]:
        best = np.argsort(-np.nan_to_num(all_train_aps[:, trait], nan=-1.0), kind="stable")[:n_latents]
        known, counted = (np.flatnonzero(labels[:, trait] >= 0) for labels in (train_labels, test_labels))
        columns = [csr_array(scores[:, best]) for scores in (train, test)]
        x, z = standardised(columns[0][known], columns[1][counted])
        y = train_labels[known, trait] == 1
        if y.all() or not y.any():
            return np.nan, np.nan
        model = refit(x, y, np.arange(len(best)))
        return average_precision(model.logits(x), y), average_precision(
            model.logits(z), test_labels[counted, trait] == 1
        )

    return _each_trait(fit, train_labels.shape[1], advance)


def _each_trait(
    fit: Callable[[int], tuple[float, float]], n_traits: int, advance: Callable[[int], None]
) -> Float64[np.ndarray, "2 traits"]:
    out = np.full((2, n_traits), np.nan)
    with threadpool_limits(1, "blas"):  # threads of OpenBLAS spin: ten times the time beside other processes
        for trait in range(n_traits):
            out[:, trait] = fit(trait)
            advance(1)
    return out
