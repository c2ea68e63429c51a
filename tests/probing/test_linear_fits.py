"""Logistic regressions on a few latents or all: scikit-learn's by hand on the plain codes, and what is said of failures."""

import warnings

import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from saev.probing.sparse.linear_fits import (
    evaluate_logits,
    fit_converges,
    held_out,
    merge_silent_rows,
    refit,
    ridge_fit,
    standardised,
)

N, LATENTS = 1200, 12


def world(seed=0):
    """Sparse codes [N, 12], of which 10 is always 3 and 11 is dead, and a class that 0 and 1 tell about."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((N, LATENTS)) < 0.15, rng.exponential(size=(N, LATENTS)), 0).astype(np.float32)
    x[:, 10], x[:, 11] = 3, 0
    y = rng.random(N) < 1 / (1 + np.exp(3 - 2 * x[:, 0] - x[:, 1]))
    return x, y


def test_codes_are_divided_by_their_standard_deviation_in_training_and_constant_ones_vanish():
    x, _ = world()
    train, val = (each.toarray() for each in standardised(csr_array(x), csr_array(2 * x)))
    np.testing.assert_allclose(train[:, :10], x[:, :10] / x[:, :10].astype(np.float64).std(0), rtol=1e-9)
    np.testing.assert_allclose(val, 2 * train, rtol=1e-12)
    assert train.dtype == np.float64 and not train[:, 10:].any()


def test_a_refit_is_scikit_learns_on_all_rows():
    x, y = world()
    (train, _) = standardised(csr_array(x), csr_array(x))
    fit = refit(train, y, [1, 0])
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(train[:, [1, 0]].toarray(), y)
    np.testing.assert_allclose(fit.weights, model.coef_[0], rtol=1e-5)
    assert fit.bias == pytest.approx(model.intercept_[0], rel=1e-5) and fit.converged
    assert fit.loss == pytest.approx(log_loss(y, model.predict_proba(train[:, [1, 0]].toarray())), rel=1e-9)
    np.testing.assert_allclose(fit.logits(train), model.decision_function(train[:, [1, 0]].toarray()), atol=1e-5)


def test_a_fit_on_no_latent_is_the_prevalence():
    x, y = world()
    fit = refit(csc_array(x.astype(np.float64)), y, [])
    assert fit.loss == pytest.approx(log_loss(y, np.full(N, y.mean()))) and len(fit.weights) == 0
    np.testing.assert_allclose(1 / (1 + np.exp(-fit.logits(csc_array(x.astype(np.float64))))), y.mean())


def test_condensed_rows_keep_every_token_once():
    x, y = world()
    rows, labels, weight = merge_silent_rows(csc_array(x.astype(np.float64)), y, np.array([3, 7]))
    assert weight.sum() == N and weight[labels].sum() == y.sum() and len(rows) < N / 2
    np.testing.assert_allclose(weight @ rows, x[:, [3, 7]].sum(0), rtol=1e-6)
    assert not rows[-2:].any() and rows[:-2].any(1).all()


def test_a_separable_class_has_a_finite_fit_that_converged():
    x, _ = world()
    (train, _) = standardised(csr_array(x), csr_array(x))
    fit = refit(train, x[:, 2] > 0, [2])
    assert fit.converged and np.isfinite(fit.weights).all() and fit.loss < 2e-3


def test_the_fit_on_all_latents_is_scikit_learns_with_the_ridge_that_held_out_rows_choose():
    x, y = world()
    (train, _) = standardised(csr_array(x), csr_array(x))
    dense, ridges = train.toarray(), [1e-4, 0.03, 3.0]
    held, loss = held_out(y, 0, np.arange(N)), []
    for ridge in ridges:
        model = LogisticRegression(C=1 / (ridge * (~held).sum()), tol=1e-8, max_iter=1000).fit(dense[~held], y[~held])
        loss.append(log_loss(y[held], model.predict_proba(dense[held])))
    fit, ridge = ridge_fit(train, y, ridges, 0, np.arange(N))
    assert ridge == ridges[int(np.argmin(loss))] and fit.converged
    model = LogisticRegression(C=1 / (ridge * N), tol=1e-8, max_iter=1000).fit(dense, y)
    np.testing.assert_allclose(fit.weights, model.coef_[0], atol=1e-4)
    assert fit.loss == pytest.approx(log_loss(y, model.predict_proba(dense)), rel=1e-6)


def test_every_fifth_of_both_labels_is_held_out():
    y = np.arange(103) < 12
    held = held_out(y, 3, np.arange(103))
    assert (held & y).sum() == 2 and (held & ~y).sum() == 18
    assert (held_out(y, 4, np.arange(103)) != held).any()


def test_groups_are_held_out_whole():
    group = np.arange(103) // 4
    held = held_out(np.arange(103) < 42, 3, group)
    assert (
        {*group[held]}.isdisjoint(group[~held]) and len({*group[held & (group < 11)]}) == 2 and len({*group[held]}) == 5
    )


def test_a_class_too_rare_to_choose_by_takes_the_largest_ridge():
    x, _ = world()
    (train, _) = standardised(csr_array(x), csr_array(x))
    assert ridge_fit(train, np.arange(N) < 4, [0.01, 1.0, 0.1], 0, np.arange(N))[1] == 1.0


def test_a_fit_that_ends_early_says_so():
    x, y = world()
    assert not fit_converges(LogisticRegression(max_iter=1), csc_array(x), y)
    assert fit_converges(LogisticRegression(max_iter=500), csc_array(x), y)


def test_other_warnings_are_passed_on():
    class Noisy(LogisticRegression):
        def fit(self, X, y, sample_weight=None):
            warnings.warn("of another kind", UserWarning, stacklevel=1)
            return super().fit(X, y, sample_weight)

    x, y = world()
    with pytest.warns(UserWarning, match="of another kind"):
        fit_converges(Noisy(), csc_array(x), y)


def by_hand(scores, positive):
    """Average precision as the mean over 2000 random orders of the ties."""
    rng, found = np.random.default_rng(0), []
    for _ in range(2000):
        hits = positive[np.lexsort((rng.random(len(scores)), -scores))]
        found.append((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())
    return np.mean(found)


def test_numbers_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    logits, y = np.round(rng.normal(size=400), 1), rng.random(400) < 0.2
    found, p = evaluate_logits(logits, y), 1 / (1 + np.exp(-logits))
    assert found["ap"] == pytest.approx(by_hand(logits, y), abs=5e-4) and found["prevalence"] == y.mean()
    assert found["ce"] == pytest.approx(log_loss(y, p))
    assert found["ce_prevalence"] == pytest.approx(log_loss(y, np.full(400, y.mean())))
