"""Thresholds of training folds, judged on the held-out ones, equal a loop with scikit-learn."""

import numpy as np
import pytest
from contrasts.pairs import codes, pair
from scipy.sparse import csc_matrix
from sklearn.metrics import f1_score, precision_recall_fscore_support

from saev.contrasts.statistics import Rule, pair_statistics


def by_scikit_learn(values, is_a, fold, higher_a, rule):
    """(precision, recall, F1, mean threshold); every threshold is tried."""
    truth, said, thresholds = [], [], []
    for number in range(5):
        train, test = fold != number, fold == number
        y = is_a == higher_a[number]
        if rule == "saev":
            threshold = np.quantile(values[train & ~y], 0.95)
            above = values[test] > threshold
        else:
            candidates = np.unique(values[train][values[train] > 0])[::-1]
            f1 = [f1_score(y[train], values[train] >= t) for t in candidates]
            threshold = candidates[int(np.argmax(np.round(f1, 12)))] if len(candidates) else np.inf
            above = values[test] >= threshold
        truth.append(y[test])
        said.append(above)
        thresholds.append(threshold)
    scores = precision_recall_fscore_support(
        np.concatenate(truth), np.concatenate(said), average="binary", zero_division=np.nan
    )
    finite = np.array(thresholds)[np.isfinite(thresholds)]
    return [*scores[:3], finite.mean() if len(finite) else np.nan]


@pytest.mark.parametrize("rule", ["strict", "saev"])
@pytest.mark.parametrize("convert", [np.asarray, csc_matrix], ids=["dense", "sparse"])
def test_held_out_f1(rule: Rule, convert):
    scores = codes(70, 8, density=0.7)
    scores[:, 4] *= np.random.default_rng(0).random(70) < 0.1
    sides = pair(26, 31, 70, 4, per_cluster=2)
    (statistics,) = pair_statistics(convert(scores), [sides], n_permutations=2, bootstrap=2, rule=rule, seed=1)
    fold = statistics.fold[sides.cluster]
    assert len(set(fold)) == 5
    for j in range(8):
        expected = by_scikit_learn(
            scores[sides.rows, j].astype(float), sides.is_a, fold, statistics.fold_z[j] >= 0, rule
        )
        columns = [statistics.columns[name][j] for name in ("precision", "recall", "f1", "threshold")]
        if j == 2:  # silent
            assert np.isnan(columns[0]) and columns[1] == columns[2] == 0
        else:
            np.testing.assert_allclose(columns, expected, atol=1e-6)


def test_the_direction_of_a_fold_is_that_of_the_other_folds():
    scores = codes(60, 12)
    sides = pair(25, 25, 60, 1)
    (statistics,) = pair_statistics(scores, [sides], n_permutations=2, bootstrap=2)
    for number in range(5):
        training = (statistics.fold != number)[sides.cluster]
        for j in range(12):
            a, b = (scores[sides.rows[training & group], j] for group in (sides.is_a, ~sides.is_a))
            wins = (np.sign(a[:, None] - b[None]).sum() / 2) / (len(a) * len(b))
            if abs(wins) > 0.05:
                assert np.sign(statistics.fold_z[j, number]) == np.sign(wins)
