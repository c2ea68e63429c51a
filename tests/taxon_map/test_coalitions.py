"""Coalitions: the greedy search against a loop, AND and OR that are planted, halves of groups, and the null."""

import itertools

import numpy as np
import pytest

from saev.taxon_map.coalitions import AND, GAIN, halves, judge, null_f1, search
from saev.taxon_map.tree import tree_of


def greedy(fires: np.ndarray, member: np.ndarray, most: int) -> tuple[list, float]:
    """The same search for one node, by a loop."""

    def f1(state):
        return 2 * (state & member).sum() / max(state.sum() + member.sum(), 1)

    n = fires.shape[1]
    best = max(range(n), key=lambda j: (f1(fires[:, j]), -j))
    parts, state, value = [("", best)], fires[:, best], f1(fires[:, best])
    while len(parts) < most:
        options = [("and", j, state & fires[:, j]) for j in range(n)] + [
            ("or", j, state | fires[:, j]) for j in range(n)
        ]
        join, j, joined = max(options, key=lambda option: f1(option[2]))  # the first of equals
        if f1(joined) <= value + GAIN:
            break
        parts, state, value = [*parts, (join, j)], joined, f1(joined)
    return parts, value


@pytest.mark.parametrize("seed", range(5))
def test_the_search_is_that_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    fires = rng.random((80, 15)) < rng.uniform(0.05, 0.7, 15)
    members = rng.random((80, 4)) < 0.3
    searched = search(fires.astype(np.float32), members.astype(np.float32), 4)
    states = searched.fires(fires.astype(np.float32))
    for k in range(4):
        parts, value = greedy(fires, members[:, k], 4)
        chosen = [("", searched.latents[k, 0])] + [
            (("and", "or")[join], latent)
            for latent, join in zip(searched.latents[k, 1:], searched.joins[k, 1:], strict=True)
            if latent >= 0
        ]
        assert chosen == parts and searched.f1[k] == pytest.approx(value)
        assert searched.text(k, np.arange(15)) == " ".join(f"{join} {latent}".strip() for join, latent in parts)
        both = (states[:, k] * members[:, k]).sum()
        assert 2 * both / (states[:, k].sum() + members[:, k].sum()) == pytest.approx(value)


def test_a_planted_and_and_a_planted_or_are_held_out_exactly():
    rng = np.random.default_rng(0)
    species = np.repeat(["a", "b", "c", "d"], 20)
    fires = (rng.random((80, 20)) < 0.1).astype(np.float32)
    fires[:, 3], fires[:, 7] = np.isin(species, ["a", "b"]), np.isin(species, ["a", "c"])  # a = 3 and 7
    fires[:, 11], fires[:, 12] = (
        np.tile([1, 0], 40) * (species == "d"),
        np.tile([0, 1], 40) * (species == "d"),
    )  # d = 11 or 12
    tree = tree_of({"species": species.tolist()})
    half = halves(np.arange(80), tree.leaf, 0)
    judged = judge(fires, tree.leaf, half.training, tree, 4)
    assert judged.search.text(0, np.arange(20)) == "3 and 7" and judged.search.joins[0, 1] == AND
    assert {*judged.search.text(3, np.arange(20)).split(" or ")} == {"11", "12"}
    assert judged.f1[[0, 3]].tolist() == [1, 1] and judged.size.tolist() == [10] * 4
    assert judged.single[0] == pytest.approx(2 / 3)
    null = null_f1(fires, half, tree, 4, 20, 0)
    assert null.shape == (20, 4) and null.max() < 0.7


def test_halves_keep_groups_together_and_divide_each_leaf():
    group = np.repeat(np.arange(12), 3)
    leaf_of_group = np.repeat([0, 1, 2], 4)
    half = halves(group, leaf_of_group, 1)
    for one in range(12):
        assert len({*half.training[group == one].tolist()}) == 1
    for leaf, side in itertools.product(range(3), (True, False)):
        assert ((leaf_of_group[group] == leaf) & (half.training == side)).sum() == 6
    permuted = half.permuted(np.random.default_rng(0))
    for side in (True, False):  # each half keeps its leaves
        assert sorted(permuted[half.training == side]) == sorted(leaf_of_group[group][half.training == side])
    assert all(len({*permuted[group == one].tolist()}) == 1 for one in range(12))


def test_permuted_leaves_keep_their_number_of_images_in_each_half():
    size = np.array([30] * 3 + [2] * 45)
    leaf_of_group = np.array([0] * 3 + [1, 2, 3] * 15)
    group = np.arange(48).repeat(size)
    half = halves(group, leaf_of_group, 0)
    permuted = half.permuted(np.random.default_rng(0))
    assert not np.array_equal(permuted, leaf_of_group[group])
    for side in (True, False):
        counts = [np.bincount(leaf[half.training == side]).tolist() for leaf in (permuted, leaf_of_group[group])]
        assert counts[0] == counts[1]


def test_without_a_relation_held_out_f1_is_that_of_permuted_labels():
    tree = tree_of({"species": ["a"] * 30 + ["b"] * 70})
    above, gaps = 0, []
    for seed in range(40):
        fires = (np.random.default_rng(seed).random((100, 30)) < 0.3).astype(np.float32)
        half = halves(np.arange(100), tree.leaf, seed)
        judged = judge(fires, tree.leaf, half.training, tree, 4)
        f1 = judged.f1
        gaps.append(judged.search.f1[0] - f1[0])
        null = null_f1(fires, half, tree, 4, 19, seed)
        above += ((1 + (null >= f1).sum(0)) / 20 <= 0.05)[0]
    assert np.mean(gaps) > 0.1  # it is not judged on the images that it was chosen on
    assert above <= 6  # binomial(40, 0.05): above 6 in 0.7 % of cases
