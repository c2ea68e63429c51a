"""Every statistic equals that of scipy, scikit-learn or NumPy, pair by pair and latent by latent."""

import numpy as np
import pytest
from contrasts.pairs import codes, pair
from scipy.sparse import csc_matrix
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import roc_auc_score

from saev.contrasts import statistics as module
from saev.contrasts.sides import Sides
from saev.contrasts.statistics import n_batches, pair_statistics
from saev.metrics.ranking import average_precision


def signed(values):
    return values - 0.5 * (np.arange(values.shape[1]) % 2).astype(np.float32)


@pytest.mark.parametrize("convert", [np.asarray, csc_matrix, signed], ids=["dense", "sparse", "negative"])
def test_statistics_are_those_of_scipy_and_scikit_learn(convert):
    scores = convert(codes(60, 9))
    dense = scores.toarray() if isinstance(scores, csc_matrix) else scores
    sides = [pair(20, 13, 60, 1), pair(7, 30, 60, 2)]
    for statistics, one in zip(pair_statistics(scores, sides, n_permutations=5, bootstrap=5), sides, strict=True):
        columns = statistics.columns
        for j in range(9):
            a, b = dense[one.a, j].astype(float), dense[one.b, j].astype(float)
            both, is_a = np.concatenate([a, b]), one.is_a
            assert columns["fires_a"][j] == np.mean(a > 0) and columns["fires_b"][j] == np.mean(b > 0)
            for group, values in (("a", a), ("b", b)):
                expected = [values.mean(), *np.quantile(values, [0.25, 0.5, 0.75])]
                names = [f"{name}_{group}" for name in ("mean", "q25", "q50", "q75")]
                np.testing.assert_allclose([columns[name][j] for name in names], expected, atol=1e-12)
            if np.ptp(both) == 0:
                assert np.isnan(columns["d"][j]) and columns["z"][j] == 0 and columns["auroc"][j] == 0.5
                assert columns["q"][j] == columns["p"][j] == columns["p_family"][j] == 1
                continue
            sd = np.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(both) - 2))
            assert columns["d"][j] == pytest.approx((a.mean() - b.mean()) / sd)
            assert columns["auroc"][j] == pytest.approx(roc_auc_score(is_a, both))
            assert columns["ap_a"][j] == pytest.approx(average_precision(both, is_a))
            assert columns["ap_b"][j] == pytest.approx(average_precision(both, ~is_a))
            normal = mannwhitneyu(a, b, method="asymptotic", use_continuity=False)
            assert 2 * norm.sf(abs(columns["z"][j])) == pytest.approx(normal.pvalue)
            assert np.sign(columns["z"][j]) == np.sign(normal.statistic - len(a) * len(b) / 2)


def test_only_images_of_the_same_stratum_are_compared():
    scores = codes(80, 5)
    sides = pair(25, 30, 80, 4, strata=3)
    (statistics,) = pair_statistics(csc_matrix(scores), [sides], n_permutations=2, bootstrap=2)
    wins = pairs = 0
    for s in range(3):
        a, b = (scores[sides.rows[(sides.stratum == s) & group]] for group in (sides.is_a, ~sides.is_a))
        wins = wins + (np.sign(a[:, None] - b[None]).astype(float) / 2 + 0.5).sum((0, 1))
        pairs += len(a) * len(b)
    np.testing.assert_allclose(statistics.columns["auroc"], wins / pairs)


def test_a_confounder_separates_without_strata_and_vanishes_with_them():
    """Latent 0 fires on dorsal views, more of which are in group a; latent 1 on group a."""
    rng = np.random.default_rng(0)
    n = 120
    dorsal = np.concatenate([np.arange(60) < 50, np.arange(60) < 10])
    scores = np.stack([dorsal * (1 + rng.random(n)), (np.arange(n) < 60) * rng.random(n)], 1).astype(np.float32)
    scores = np.concatenate([scores, codes(n, 20)], 1)
    results = {}
    for name, stratum in (("none", np.zeros(n, np.int64)), ("view", dorsal.astype(np.int64))):
        sides = Sides(name, np.arange(60), np.arange(60, n), np.arange(n), stratum)
        (results[name],) = pair_statistics(scores, [sides], n_permutations=199, bootstrap=5)
    p, q = ({name: one.columns[key] for name, one in results.items()} for key in ("p_family", "q"))
    assert p["none"][0] == p["none"][1] == p["view"][1] == 1 / 200 and p["view"][0] > 0.2
    assert q["none"][0] < 0.001 and q["view"][0] > 0.2 and q["view"][1] < 0.001
    assert results["none"].columns["auroc"][0] > 0.8 and abs(results["view"].columns["auroc"][0] - 0.5) < 0.15


def test_planted_latents_come_first_with_the_effect_sizes_of_their_codes():
    """a: 1, 1, 0, 0 by turns, b: silent. d: 0.5 in pooled sds: sqrt(39 * var / 78), var of 40 codes half of them 1."""
    scores = codes(80, 30, seed=5)
    a, b = np.arange(40), np.arange(40, 80)
    scores[:, 7] = 0
    scores[a[::2], 7] = 1
    sides = Sides("x", a, b, np.arange(80), np.zeros(80, np.int64))
    (statistics,) = pair_statistics(csc_matrix(scores), [sides], n_permutations=199, bootstrap=200)
    columns = statistics.columns
    assert np.argmax(np.abs(columns["z"])) == 7 and columns["p_family"][7] == 1 / 200
    assert columns["d"][7] == pytest.approx(0.5 / np.sqrt(10 / 78))
    assert columns["auroc"][7] == pytest.approx(0.75) and columns["difference"][7] == 0.5
    assert (columns["fires_a"][7], columns["fires_b"][7]) == (0.5, 0)
    assert columns["precision"][7] == 1 and columns["recall"][7] == 0.5 and columns["threshold"][7] == 1
    assert columns["difference_low"][7] < 0.5 < columns["difference_high"][7]
    assert np.abs(columns["z"][7]) > statistics.threshold


def test_dense_and_sparse_codes_blocks_and_batches_give_the_same(monkeypatch):
    scores = codes(70, 23)
    sides = [pair(20, 25, 70, k, strata=1 + k, per_cluster=1 + k % 2, name=str(k)) for k in range(3)]
    first = pair_statistics(scores, sides, n_permutations=30, bootstrap=30)
    monkeypatch.setattr(module, "ENTRIES", 45 * 4)
    monkeypatch.setattr(module, "LABELS", 60 * 4 * 50)
    assert n_batches(sides, 60) > 1
    advanced = []
    again = pair_statistics(csc_matrix(scores), sides, n_permutations=30, bootstrap=30, advance=advanced.append)
    assert sum(advanced) == 23 * n_batches(sides, 60)
    for one, other in zip(first, again, strict=True):
        assert one.columns.keys() == other.columns.keys() and one.threshold == pytest.approx(other.threshold)
        for name in one.columns:
            np.testing.assert_allclose(one.columns[name], other.columns[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_codes_that_are_not_finite_are_refused():
    scores = codes(60, 4)
    scores[3, 1] = np.nan
    for convert in (np.asarray, csc_matrix):
        with pytest.raises(ValueError, match="not finite"):
            pair_statistics(convert(scores), [pair(20, 20, 60)], n_permutations=2, bootstrap=2)
