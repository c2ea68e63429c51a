"""Counts, hypergeometric p and the permuted null, against loops and scipy."""

import numpy as np
import pytest
from scipy.sparse import csc_matrix
from scipy.stats import hypergeom

from saev.taxon_map import statistics
from saev.taxon_map.statistics import count, family_wise_p, null_maxima, permuted, smallest_p, tail
from saev.taxon_map.tree import Tree, tree_of


def random_data(seed: int, n: int = 60, latents: int = 12) -> tuple[csc_matrix, Tree]:
    rng = np.random.default_rng(seed)
    fires = rng.random((n, latents)) < rng.uniform(0, 0.6, latents)
    fires[:, 0], fires[:, 1] = False, True
    families = rng.choice(["a", "b", "c"], n).tolist()
    species = [f"{family}{rng.integers(2)}" for family in families]
    return csc_matrix(fires.astype(np.int8)), tree_of({"family": families, "species": species})


def test_counts_are_those_of_a_loop_and_p_is_scipys():
    fires, tree = random_data(0)
    counts, dense, members = count(fires, tree, tree.leaf), fires.toarray() > 0, tree.members(tree.leaf) > 0
    for j in range(dense.shape[1]):
        for k in range(members.shape[1]):
            both = int((dense[:, j] & members[:, k]).sum())
            firing, size = int(dense[:, j].sum()), int(members[:, k].sum())
            assert counts.hits[j, k] == both and counts.firing[j] == firing and counts.size[k] == size
            sufficiency, necessity = (both / firing if firing else 0), both / size
            assert counts.sufficiency()[j, k] == sufficiency and counts.necessity()[j, k] == necessity
            harmonic = 2 * sufficiency * necessity / (sufficiency + necessity) if both else 0
            assert counts.f1()[j, k] == pytest.approx(harmonic)
            pair = np.array([j]), np.array([k])
            expected = sum(hypergeom.pmf(x, 60, size, firing) for x in range(both, min(size, firing) + 1))
            assert tail(counts, 60, *pair)[0] == pytest.approx(expected)


def test_blocks_of_latents_give_the_same_null(monkeypatch):
    fires, tree = random_data(1)
    arguments = fires, tree, np.arange(60), tree.leaf, 20, 3
    whole = null_maxima(*arguments)
    monkeypatch.setattr(statistics, "BLOCK", 5 * tree.n_leaves)
    assert np.array_equal(null_maxima(*arguments), whole)
    assert not np.array_equal(null_maxima(*arguments[:-1], 4), whole)


def test_a_permutation_by_hand_gives_the_nulls_maximum():
    fires, tree = random_data(2)
    leaf = np.random.default_rng(0).permutation(tree.leaf)
    members, dense = tree.members(leaf) > 0, fires.toarray() > 0
    f1 = [[2 * (d & m).sum() / max(d.sum() + m.sum(), 1) for m in members.T] for d in dense.T]
    assert null_maxima(fires, tree, np.arange(60), tree.leaf, 1, 0)[0] == pytest.approx(np.max(f1, 0))


def test_groups_keep_their_leaf_together():
    tree = tree_of({"species": ["a", "a", "a", "b", "b", "b"]})
    group = np.repeat([0, 1], 3)
    fires = csc_matrix(np.array([[1], [1], [1], [0], [0], [0]], np.int8))
    maxima = null_maxima(fires, tree, group, np.array([0, 1]), 50)
    assert {*np.unique(maxima).tolist()} == {0.0, 1.0}  # the three images of a specimen move as one


def test_p_counts_the_permutations_that_reach_a_value():
    maxima = np.array([[0.1, 0.5], [0.2, 0.5], [0.3, 0.5]])
    p = family_wise_p(np.array([0.2, 0.31, 0.5]), np.array([0, 0, 1]), maxima)
    assert p.tolist() == [3 / 4, 1 / 4, 1.0]
    assert np.isnan(family_wise_p(np.array([0.2]), np.array([0]), maxima[:0])).all()


def test_at_most_5_percent_of_nodes_without_a_latent_have_a_latent_with_p_below_0_05():
    tree = tree_of({"species": ["a"] * 20 + ["b"] * 40})
    rejected = 0
    for seed in range(200):
        fires = csc_matrix((np.random.default_rng(seed).random((60, 15)) < 0.3).astype(np.int8))
        f1 = count(fires, tree, tree.leaf).f1()[:, 0]
        maxima = null_maxima(fires, tree, np.arange(60), tree.leaf, 39, seed)
        rejected += family_wise_p(f1, np.zeros(15, np.int64), maxima).min() <= 0.05
    assert rejected <= 18  # binomial(200, 0.05): above 18 in 0.5 % of cases; F1 has ties, so p is larger than uniform


def unequal_groups() -> tuple[Tree, np.ndarray, np.ndarray]:
    """(tree, group of each image, size of each group): a and b have groups of 12 and of 2 images, c has all three of 30."""
    sizes = {"a": [12] * 5 + [2] * 5, "b": [12] * 3 + [2] * 20, "c": [30] * 3}
    size = np.concatenate([*sizes.values()])
    leaf = np.repeat([*sizes], [len(one) for one in sizes.values()])
    return tree_of({"species": leaf.repeat(size).tolist()}), np.arange(len(size)).repeat(size), size


def test_with_groups_of_unequal_size_p_is_at_most_0_05_in_5_percent_without_a_relation():
    tree, group, size = unequal_groups()
    leaf_of_group = np.array([0] * 10 + [1] * 23 + [2] * 3)
    rejected = np.zeros(3, int)
    for seed in range(200):
        fires = csc_matrix((np.random.default_rng(seed).random((len(group), 10)) < 0.3).astype(np.int8))
        best = count(fires, tree, tree.leaf).f1().max(0)
        maxima = null_maxima(fires, tree, group, leaf_of_group, 19, seed)
        rejected += family_wise_p(best, np.arange(3), maxima) <= 0.05
    assert (rejected[:2] >= 2).all() and (rejected[:2] <= 19).all()  # binomial(200, 0.05): outside in 0.4 % of cases
    assert rejected[2] == 0  # the groups of c have no others of their size
    assert (smallest_p(tree, leaf_of_group, size) > 0.05).tolist() == [False, False, True]


def test_the_smallest_p_is_the_fraction_of_permutations_that_change_nothing():
    tree, _, _ = unequal_groups()
    leaf_of_group = np.array([0] * 4 + [1] * 2 + [2])
    strata = np.array([1, 1, 2, 2, 1, 1, 2])
    rng = np.random.default_rng(0)
    draws = np.stack([permuted(leaf_of_group, strata, rng) for _ in range(4000)])
    for k in range(3):
        same = ((draws == k) == (leaf_of_group == k)).all(1).mean()
        assert smallest_p(tree, leaf_of_group, strata)[k] == pytest.approx(same, abs=0.03)
    for stratum in (1, 2):
        columns = strata == stratum
        assert (np.sort(draws[:, columns], 1) == np.sort(leaf_of_group[columns])).all()
