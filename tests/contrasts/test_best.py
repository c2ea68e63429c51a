"""The best latents of two methods are chosen on training folds and compared on held-out images; latents over pairs."""

import numpy as np
import pytest
from contrasts.pairs import codes, pair
from scipy.sparse import csc_matrix
from sklearn.metrics import roc_auc_score

from saev.contrasts.across_pairs import across_pairs
from saev.contrasts.best import Method, best_of, compare, weighted_auroc
from saev.contrasts.sides import Sides
from saev.contrasts.statistics import PairStatistics, pair_statistics


def method(scores, sides):
    (statistics,) = pair_statistics(scores, [sides], n_permutations=2, bootstrap=2)
    return Method(scores, statistics.fold_z), statistics.fold


@pytest.mark.parametrize("convert", [np.asarray, csc_matrix], ids=["dense", "sparse"])
def test_the_best_of_each_fold_is_judged_on_its_held_out_images(convert):
    scores = codes(80, 12)
    sides = pair(30, 36, 80, 2)
    one, fold = method(convert(scores), sides)
    best = best_of(sides, fold, one, 6, 20, seed=4)
    among = np.random.default_rng([4, 0]).permutation(12)[:6]
    aurocs = []
    for number in range(5):
        z = one.fold_z[among, number]
        j = among[int(np.argmax(np.abs(z)))]
        assert best.latent[number] == j
        at = fold[sides.cluster] == number
        aurocs.append(roc_auc_score(sides.is_a[at] == (one.fold_z[j, number] >= 0), scores[sides.rows[at], j]))
    assert best.auroc == pytest.approx(np.mean(aurocs))
    assert best.interval.low < best.auroc < best.interval.high and len(best.draws) == 20


def test_weighted_aurocs_are_those_of_repeated_images():
    rng = np.random.default_rng(0)
    values, is_a, stratum = codes(30, 3)[:, 0], np.arange(30) < 14, np.arange(30) % 2
    weight = rng.integers(0, 4, (5, 30))
    areas = weighted_auroc(values, is_a, stratum, weight)
    for w, area in zip(weight, areas, strict=True):
        wins = pairs = 0
        for s in (0, 1):
            at = np.flatnonzero(stratum == s).repeat(w[stratum == s])
            a, b = (values[at[group]] for group in (is_a[at], ~is_a[at]))
            wins += (np.sign(a[:, None] - b[None]).astype(float) / 2 + 0.5).sum()
            pairs += len(a) * len(b)
        assert area == pytest.approx(wins / pairs)
    assert np.isnan(weighted_auroc(values[:3], is_a[:3], stratum[:3], weight[:, :3])).all()


def test_a_planted_latent_beats_noise_at_equal_numbers_of_prototypes():
    rng = np.random.default_rng(0)
    sides = pair(40, 40, 80)
    scores, noise = codes(80, 10), codes(80, 30, seed=9)
    scores[:, 5] = rng.random(80)
    scores[sides.a, 5] += 1
    (one, fold), (random, _) = method(csc_matrix(scores), sides), method(noise, sides)
    result = compare(sides, fold, one, random, bootstrap=200)
    assert result.n_prototypes == 10 and (result.best.latent == 5).all() and result.best.auroc == 1
    assert result.difference == 1 - result.reference.auroc and result.interval.low > 0.2
    same = compare(sides, fold, one, one, n_prototypes=99, bootstrap=50)
    assert same.difference == 0 and tuple(same.interval) == (0, 0) and same.n_prototypes == 10
    few = pair(4, 30, 80)
    one, fold = method(scores, few)
    assert np.isnan(compare(few, fold, one, one, bootstrap=9).interval.low)


def test_latents_of_all_pairs_are_told_from_those_of_one():
    """Latent 0 separates three pairs in the same direction, 1 the first alone, 2 two of them in opposite directions."""
    rng = np.random.default_rng(1)
    sides = [
        Sides(str(k), *np.split(60 * k + np.arange(60), 2), np.arange(60), np.zeros(60, np.int64)) for k in range(3)
    ]
    scores = np.abs(rng.normal(size=(180, 12)).astype(np.float32))
    for k, one in enumerate(sides):
        scores[one.b, 0] += 3
        if k == 0:
            scores[one.a, 1] += 3
        if k < 2:
            scores[(one.a, one.b)[k], 2] += 3
    columns = across_pairs(pair_statistics(scores, sides, n_permutations=199, bootstrap=0))
    assert columns["higher_a"][:3].tolist() == [0, 1, 1] and columns["higher_b"][:3].tolist() == [3, 0, 1]
    assert columns["separated"][:4].tolist() == [3, 1, 1, 0]
    assert columns["smallest_d"][0] > 2 and (columns["smallest_d"][1:] < 1).all()
    assert columns["median_d"][0] > 2 > columns["median_d"][1]


def test_gaps_of_constant_codes():
    def of(d, difference):
        columns = {
            "z": np.array([1.0]),
            "p_family": np.array([0.01]),
            "d": np.array([d]),
            "difference": np.array([difference]),
        }
        return PairStatistics(columns, np.zeros((1, 5)), np.zeros(4, np.int64), 3.0)

    assert across_pairs([of(np.nan, 2.0), of(1.5, 1.0)])["smallest_d"][0] == 1.5
    assert across_pairs([of(np.nan, 0.0), of(1.5, 1.0)])["smallest_d"][0] == 0
    assert across_pairs([of(np.nan, -2.0)])["smallest_d"][0] == np.inf
