"""Classifiers of two groups: planted latents stay, permuted groups do not separate, predictions are of held-out clusters."""

import numpy as np
import pytest
from contrasts.pairs import codes, pair
from scipy.sparse import csc_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import MaxAbsScaler

from saev.contrasts.classifier import FACTORS, accuracy, classify, lasso, nested_fits
from saev.contrasts.sides import folds_of


def planted(sides, rows, seed=0):
    """Latents 4 and 6 each fire on half of group a, on different images."""
    scores = codes(rows, 40, seed=seed)
    scores[:, [4, 6]] = 0
    scores[sides.a[::2], 4] = scores[sides.a[1::2], 6] = 1
    return scores


@pytest.mark.parametrize("convert", [np.asarray, csc_matrix], ids=["dense", "sparse"])
def test_planted_latents_stay(convert):
    sides = pair(40, 50, 100, 2, per_cluster=2)
    raw = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    raw[sides.a, 3] += 1.5
    result = classify(convert(planted(sides, 100)), raw, sides, bootstrap=100)
    assert result is not None and result.raw is not None
    assert {*result.latents[:2]} == {4, 6} and (result.weights[:2] > 0).all()
    assert (result.frequency[:2] == 1).all() and (np.diff(np.abs(result.weights)) <= 0).all()
    assert result.codes.balanced > 0.95 and 0.6 < result.raw.balanced < 0.95
    assert result.raw.interval.low < result.raw.balanced < result.raw.interval.high
    assert 0.25 < result.permuted.balanced < 0.75
    assert (result.path_latents >= 2).all() and len(result.path_accuracy) == len(FACTORS)


def test_predictions_are_of_models_that_have_not_seen_the_cluster():
    x = codes(60, 5, density=0.8)
    sides = pair(26, 34, 60, per_cluster=2)
    x = x[sides.rows].astype(float)
    nested = nested_fits(x, sides.cluster_is_a, sides.cluster, lasso, 2, 5, 3)
    fold = folds_of(sides.cluster_is_a, 5, 3)[sides.cluster]
    for number in range(5):
        train, held = fold != number, fold == number
        mean, std = x[train].mean(0), x[train].std(0)
        z = (x - mean) / np.where(std > 0, std, 1)
        model = lasso(z[train], sides.is_a[train], int(nested.chosen[number]))
        assert (model.predict(z[held]) == nested.said_a[held]).all()


def test_accuracies_are_those_of_scikit_learn_over_resamples():
    rng = np.random.default_rng(0)
    said, truth = rng.random(30) < 0.6, np.arange(30) < 12
    drawn = np.stack([rng.multinomial(30, np.full(30, 1 / 30)) for _ in range(20)])
    result = accuracy(said, truth, drawn)
    assert result.balanced == pytest.approx(balanced_accuracy_score(truth, said))
    values = np.array([balanced_accuracy_score(truth, said, sample_weight=w) for w in drawn])
    shift = result.balanced - values.mean()
    assert tuple(result.interval) == pytest.approx(np.quantile(values, [0.025, 0.975]) + shift)


def test_the_l1_fit_reaches_the_optimum_of_another_solver():
    sides = pair(40, 50, 100, 2)
    x = MaxAbsScaler().fit_transform(planted(sides, 100)[sides.rows].astype(float))
    model = lasso(x, sides.is_a, 3)
    other = LogisticRegression(C=model.C, l1_ratio=1, solver="saga", class_weight="balanced", tol=1e-6, max_iter=20000)
    other.fit(x, sides.is_a)
    assert {*np.flatnonzero(np.abs(other.coef_[0]) > 1)} == {*np.flatnonzero(np.abs(model.coef_[0]) > 1)} == {4, 6}
    np.testing.assert_allclose(model.coef_, other.coef_, atol=0.3)


def test_groups_of_few_clusters_have_no_classifier():
    assert classify(codes(60, 5), None, pair(8, 20, 60, per_cluster=4)) is None
    result = classify(codes(60, 5), None, pair(12, 20, 60, per_cluster=4), bootstrap=10)
    assert result is not None and result.raw is None and np.isnan(result.codes.interval.low)
    assert (result.path_latents >= 0).all()


def test_silent_codes_have_no_classifier_and_rare_ones_do():
    sides = pair(20, 20, 60)
    scores = np.zeros((60, 5), np.float32)
    assert classify(csc_matrix(scores), None, sides, bootstrap=10) is None
    scores[sides.a[0], 1] = 1
    result = classify(csc_matrix(scores), None, sides, bootstrap=10)
    assert result is not None and abs(result.codes.balanced - 0.5) < 0.05
