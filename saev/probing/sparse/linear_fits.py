"""Logistic regressions of one class on some latents' standardised codes, fitted by scikit-learn.

Rows on which none of these latents fires differ by their label alone: the solver gets them as two weighted rows.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.linalg import LinAlgWarning
from scipy.sparse import csc_array, csr_array
from scipy.special import entr, logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from saev.metrics.ranking import average_precision

RIDGE = 1e-8  # of the "unpenalised" fits: keeps separable classes finite, as in the 1-D probes


@dataclass(frozen=True)
class LinearFit:
    """y ~ sigmoid(bias + x[:, latents] @ weights); `loss` is the mean cross-entropy of the fit in nats, without penalty."""

    latents: Int64[np.ndarray, " latents"]
    weights: Float64[np.ndarray, " latents"]
    bias: float
    loss: float
    converged: bool

    def logits(self, x: csc_array) -> Float64[np.ndarray, " rows"]:
        """Log-odds of the class for each row of codes, standardised like those of the fit."""
        weights = np.zeros(len(x.indptr) - 1)
        weights[self.latents] = self.weights
        return x @ weights + self.bias


def standardised(train: csr_array, val: csr_array) -> tuple[csc_array, csc_array]:
    """Both, with each column divided by its standard deviation in `train` (float64); columns that are constant there become 0.

    Means are not subtracted, so that zeros stay zeros: the free intercept of a fit absorbs the shift.
    """
    x = train.astype(np.float64).tocsc()
    mean = np.asarray(x.mean(axis=0)).ravel()
    square = np.asarray(x.multiply(x).mean(axis=0)).ravel()
    variance = square - mean**2
    varies = variance > 1e-12 * square
    factor = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1)), 0)
    return _scaled(x, factor), _scaled(val.astype(np.float64).tocsc(), factor)


def _scaled(x: csc_array, factor: Float64[np.ndarray, " latents"]) -> csc_array:
    x = csc_array((x.data * np.repeat(factor, np.diff(x.indptr)), x.indices, x.indptr), shape=x.shape)
    x.eliminate_zeros()
    return x


def refit(
    x: csc_array, y: Bool[np.ndarray, " rows"], latents: Sequence[int] | Int64[np.ndarray, " latents"]
) -> LinearFit:
    """The unpenalised fit (except for RIDGE) on a few latents; on none, the prevalence."""
    latents = np.asarray(latents, np.int64)
    if not len(latents):
        p = float(y.mean())
        return LinearFit(latents, np.zeros(0), float(logit(p)), float(entr(p) + entr(1 - p)), True)
    rows, labels, weight = merge_silent_rows(x, y, latents)
    model = LogisticRegression(C=1 / (len(y) * RIDGE), solver="newton-cholesky", tol=1e-8, max_iter=200)
    converged = fit_converges(model, rows, labels, weight)
    w, b = parameters(model)
    loss = float(losses(rows @ w + b, labels) @ weight) / len(y)
    return LinearFit(latents, w, b, loss, converged)


def merge_silent_rows(
    x: csc_array, y: Bool[np.ndarray, " rows"], latents: Int64[np.ndarray, " latents"]
) -> tuple[Float64[np.ndarray, "kept latents"], Bool[np.ndarray, " kept"], Float64[np.ndarray, " kept"]]:
    """(codes, labels, weights): the rows on which one of these latents fires, and one row per label for all silent rows."""
    columns = x[:, latents].tocsr()
    fires = np.diff(columns.indptr) > 0
    silent = np.bincount(y[~fires], minlength=2)
    occurs = silent > 0
    rows = np.concatenate([columns[np.flatnonzero(fires)].toarray(), np.zeros((int(occurs.sum()), len(latents)))])
    labels = np.concatenate([y[fires], np.array([False, True])[occurs]])
    return rows, labels, np.concatenate([np.ones(int(fires.sum())), silent[occurs].astype(np.float64)])


def ridge_fit(
    x: csc_array,
    y: Bool[np.ndarray, " rows"],
    ridges: Sequence[float],
    seed: int,
    cluster: Int64[np.ndarray, " rows"],
) -> tuple[LinearFit, float]:
    """(fit on all latents that minimises mean loss + ridge / 2 * sum of squared weights, ridge).

    Of several ridges, the one with the lowest loss on the rows of `held_out` after a fit to the others; the final fit is to all rows.
    With fewer than five clusters with positives, or without, the largest ridge.
    """
    best = max(ridges)
    held = held_out(y, seed, cluster)
    if len(ridges) > 1 and min(np.bincount(y[held], minlength=2)) > 0:
        by_row = x.tocsr()
        rest, validation = by_row[np.flatnonzero(~held)].tocsc(), by_row[np.flatnonzero(held)].tocsc()
        loss = [losses(_ridge(rest, y[~held], ridge).logits(validation), y[held]).mean() for ridge in ridges]
        best = ridges[int(np.argmin(loss))]
    return _ridge(x, y, best), float(best)


def held_out(y: Bool[np.ndarray, " rows"], seed: int, cluster: Int64[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """The rows of every fifth cluster (image or group) with a positive row and of every fifth one without, in random order."""
    number = np.unique(cluster, return_inverse=True)[1]
    positive, rng = np.bincount(number, y) > 0, np.random.default_rng(seed)
    out = np.zeros(len(positive), bool)
    for label in (False, True):
        out[rng.permutation(np.flatnonzero(positive == label))[4::5]] = True
    return out[number]


def _ridge(x: csc_array, y: Bool[np.ndarray, " rows"], ridge: float) -> LinearFit:
    model = LogisticRegression(C=1 / (len(y) * ridge), solver="lbfgs", tol=1e-6, max_iter=2000)
    converged = fit_converges(model, x, y)
    w, b = parameters(model)
    return LinearFit(np.arange(len(w)), w, b, float(losses(x @ w + b, y).mean()), converged)


def fit_converges(
    model: LogisticRegression, x: csc_array | csr_array | np.ndarray, y: np.ndarray, weight: np.ndarray | None = None
) -> bool:
    """Fit the model; False where scikit-learn warns that it did not converge. Other warnings are re-issued."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", category=ConvergenceWarning)
        warnings.filterwarnings("ignore", category=LinAlgWarning)  # newton-cholesky falls back to lbfgs
        model.fit(x, y, sample_weight=weight)
    for warning in caught:
        if not issubclass(warning.category, ConvergenceWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)


def parameters(model: LogisticRegression) -> tuple[Float64[np.ndarray, " latents"], float]:
    """(weights, intercept) of a fitted model."""
    return np.ravel(model.coef_).astype(np.float64), float(np.ravel(model.intercept_)[0])


def losses(logits: Float64[np.ndarray, " rows"], y: Bool[np.ndarray, " rows"]) -> Float64[np.ndarray, " rows"]:
    """Cross-entropy of each row, in nats."""
    return np.logaddexp(0, np.where(y, -logits, logits))


def evaluate_logits(logits: Float64[np.ndarray, " rows"], y: Bool[np.ndarray, " rows"]) -> dict[str, float]:
    """`ap`, `ce` and `ce_prevalence` (of predicting the prevalence everywhere; nats per row), `prevalence`."""
    prevalence = float(y.mean())
    return {
        "ap": average_precision(logits, y),
        "ce": float(losses(logits, y).mean()),
        "ce_prevalence": float(entr(prevalence) + entr(1 - prevalence)),
        "prevalence": prevalence,
    }
