"""Permutation tests: against all permutations, on clusters and strata, and the error rate of simulated nulls."""

from itertools import combinations, product

import numpy as np
import pytest
from contrasts.pairs import codes, pair
from scipy.sparse import csc_matrix
from scipy.stats import false_discovery_control, norm, rankdata

from saev.contrasts.permutation import permutations, permuted_labels, permuted_z, standardised, training_z, z_scores
from saev.contrasts.ranks import cluster_sums, entries_of, ranks_of
from saev.contrasts.sides import Sides
from saev.contrasts.statistics import pair_statistics
from saev.scoring.ranking import rank


def sums_of(scores, sides):
    entries = entries_of(rank(scores, 0, scores.shape[1]), sides.position(len(scores)))
    return cluster_sums(entries, ranks_of(entries, sides), sides)


def by_hand(scores, sides):
    """The sum over clusters of centred midranks, weighted by 1 / (images of the stratum + 1)."""
    out = np.zeros((scores.shape[1], sides.cluster.max() + 1))
    for s in np.unique(sides.stratum):
        at = np.flatnonzero(sides.stratum == s)
        ranks = rankdata(scores[sides.rows[at]], axis=0)
        for i, row in zip(at, (ranks - (len(at) + 1) / 2) / (len(at) + 1), strict=True):
            out[:, sides.cluster[i]] += row
    return out


@pytest.mark.parametrize(("strata", "per_cluster"), [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)])
def test_z_is_standardised_over_all_permutations_of_clusters_within_sets_of_strata(strata, per_cluster):
    scores = codes(14, 5, seed=3)
    sides = pair(5, 7, 14, 2, strata=strata, per_cluster=per_cluster)
    sums = sums_of(scores, sides)
    np.testing.assert_allclose(sums, by_hand(scores, sides), atol=1e-12)
    sets = [np.flatnonzero(sides.exchangeable == h) for h in np.unique(sides.exchangeable)]
    choices = [[*combinations(members, int(sides.cluster_is_a[members].sum()))] for members in sets]
    every = np.array([sums[:, [c for part in chosen for c in part]].sum(1) for chosen in product(*choices)])
    observed, sd = sums[:, sides.cluster_is_a].sum(1), every.std(0)
    expected = np.where(sd > 1e-9, (observed - every.mean(0)) / np.maximum(sd, 1e-9), 0)
    parts = standardised(sums, sides)
    np.testing.assert_allclose(z_scores(parts, sides), expected, atol=1e-9)


def test_p_values_are_counts_of_permutations():
    scores = codes(40, 7)
    sides = pair(12, 16, 40, 3, strata=2, per_cluster=2)
    parts = standardised(sums_of(scores, sides), sides)
    z, labels = z_scores(parts, sides), permuted_labels(sides, 99, 5)
    assert (labels.sum(1) == sides.cluster_is_a.sum()).all() and len(np.unique(labels, axis=0)) > 90
    for h in np.unique(sides.exchangeable):
        members = sides.exchangeable == h
        assert (labels[:, members].sum(1) == sides.cluster_is_a[members].sum()).all()
    permuted = np.abs(parts @ labels.T.astype(float))
    maxima, reached = permuted_z(parts, z, labels)
    tested = permutations(z, maxima, reached, parts.any(1))
    np.testing.assert_allclose(tested.p, (1 + (permuted >= np.abs(z)[:, None] - 1e-6).sum(1)) / 100)
    np.testing.assert_allclose(tested.p_family, (1 + (permuted.max(0) >= np.abs(z)[:, None] - 1e-6).sum(1)) / 100)
    assert (tested.p_family >= tested.p).all() and tested.threshold == pytest.approx(np.sort(permuted.max(0))[-5])
    varies = parts.any(1)
    np.testing.assert_allclose(tested.q[varies], false_discovery_control(2 * norm.sf(np.abs(z[varies]))))
    assert tested.q[2] == tested.p[2] == tested.p_family[2] == 1  # silent


def test_the_threshold_is_where_p_family_becomes_significant():
    rng = np.random.default_rng(0)
    for n in (19, 99, 1000):
        maxima, none = rng.random(n).astype(np.float32) + 3, np.zeros(2, np.int64)
        threshold = permutations(np.zeros(2), maxima, none, np.ones(2, bool)).threshold
        z = np.array([threshold + 2e-4, -threshold])
        p = permutations(z, maxima, none, np.ones(2, bool)).p_family
        assert p[0] <= 0.05 < p[1]
    assert np.isnan(permutations(np.zeros(2), maxima[:18], none, np.ones(2, bool)).threshold)


@pytest.mark.slow
def test_the_family_wise_error_is_five_percent():
    """2,000 nulls: latents that correlate, ties, silent images, specimens of two images that are alike, two strata."""
    rng = np.random.default_rng(0)
    specimens, n, latents = 24, 48, 12
    a, b = np.arange(20), np.arange(20, n)
    cluster = np.arange(n) // 2
    stratum = (cluster % 3 == 0).astype(np.int64)
    sides = Sides("null", a, b, cluster, stratum)
    labels = permuted_labels(sides, 99, 1)
    rejected = raw = 0
    for _ in range(2000):
        common, specimen = rng.normal(size=(n, 1)), rng.normal(size=(specimens, latents)).repeat(2, 0)
        scores = np.maximum(np.round(common + 2 * specimen + rng.normal(size=(n, latents)), 1), 0).astype(np.float32)
        parts = standardised(sums_of(scores, sides), sides)
        z = z_scores(parts, sides)
        tested = permutations(z, *permuted_z(parts, z, labels), parts.any(1))
        rejected += tested.p_family.min() <= 0.05
        raw += (tested.p <= 0.05).sum()
    assert 0.04 <= rejected / 2000 <= 0.06
    assert 0.04 <= raw / 2000 / latents <= 0.06


def test_images_of_a_specimen_that_are_alike_are_not_counted_apart():
    """Four images of each of 12 specimens are copies: z is that of one image each."""
    rng = np.random.default_rng(1)
    scores = rng.random((12, 6)).astype(np.float32)
    one = Sides("one", np.arange(6), np.arange(6, 12), np.arange(12), np.zeros(12, np.int64))
    four = Sides("four", np.arange(24), np.arange(24, 48), np.arange(48) // 4, np.zeros(48, np.int64))
    each, copies = (
        pair_statistics(s, [sides], n_permutations=9, bootstrap=0)[0].columns["z"]
        for s, sides in ((scores, one), (csc_matrix(scores.repeat(4, 0)), four))
    )
    np.testing.assert_allclose(each, copies, atol=1e-12)


@pytest.mark.parametrize(("strata", "per_cluster"), [(1, 1), (2, 3)])
def test_z_of_training_folds_is_that_of_their_clusters(strata, per_cluster):
    scores = codes(60, 6)
    sides = pair(23, 19, 60, 1, strata=strata, per_cluster=per_cluster)
    sums, fold = sums_of(scores, sides), sides.folds(5)
    z = training_z(sums, sides, fold, 5)
    for number in range(5):
        training = np.flatnonzero(fold != number)
        at = np.isin(sides.cluster, training)
        part = Sides(
            "part", sides.rows[at & sides.is_a], sides.rows[at & ~sides.is_a], sides.cluster[at], sides.stratum[at]
        )
        np.testing.assert_allclose(z[:, number], z_scores(standardised(sums[:, training], part), part), atol=1e-9)


@pytest.mark.slow
def test_groups_of_specimens_of_unequal_size_do_not_seem_to_differ():
    """Noise, as one group has most of the large specimens: z alone would be too large in most simulations."""
    counts = [8] * 6 + [1] * 4 + [8] * 2 + [1] * 12  # images of each specimen: a, then b
    cluster = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(cluster))
    in_a = cluster < 10
    sides = Sides("x", rows[in_a], rows[~in_a], cluster, np.zeros_like(cluster))
    found = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        of_specimen = rng.normal(size=(len(counts), 4))[cluster]  # images of a specimen are alike
        scores = (of_specimen + 0.2 * rng.normal(size=of_specimen.shape)).astype(np.float32)
        (one,) = pair_statistics(scores, [sides], n_permutations=199, bootstrap=0, seed=seed)
        found.append(one.columns["p_family"].min() <= 0.05)
    assert 0.02 <= np.mean(found) <= 0.085  # binomial, 300: 5 % +- 3 standard errors
    large, small = rows[cluster < 6], rows[cluster >= 12]
    both = np.concatenate([cluster[large], cluster[small]])
    assert not Sides("x", large, small, both, np.zeros_like(both)).comparable
