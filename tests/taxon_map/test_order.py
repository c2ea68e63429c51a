"""The order of rows and columns of the map."""

import itertools

import numpy as np
import pytest
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.sparse import csc_matrix

from saev.taxon_map import order
from saev.taxon_map.order import clusters, correlations, evenly, explained, leaves_by_centre, seriate


def blocks(seed: int = 0) -> np.ndarray:
    """40 rows, 12 columns in 3 blocks that fire on different rows, shuffled; column 0 is silent."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((40, 12))
    for column in range(12):
        rows = slice(13 * (column % 3), 13 * (column % 3) + 13)
        codes[rows, column] = rng.uniform(0.5, 1, 13)
    codes[:, 0] = 0
    return codes.astype(np.float32)


@pytest.mark.parametrize("most_optimal", [2000, 3])
def test_columns_that_fire_together_are_neighbours_and_the_order_is_deterministic(monkeypatch, most_optimal):
    monkeypatch.setattr(order, "MOST_OPTIMAL", most_optimal)
    codes = blocks()
    columns, _ = seriate(codes)
    assert sorted(columns.tolist()) == list(range(12))
    block = [int(column % 3) for column in columns if column]
    assert sum(a != b for a, b in itertools.pairwise(block)) == 2
    assert np.array_equal(seriate(codes.copy())[0], columns)


def test_beyond_the_optimal_order_blocks_come_in_the_order_of_their_rows(monkeypatch):
    monkeypatch.setattr(order, "MOST_OPTIMAL", 3)
    columns, _ = seriate(blocks()[:, 1:])
    block = [int((column + 1) % 3) for column in columns]
    assert block == sorted(block)


def test_the_order_by_centre_is_one_of_the_linkages():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(30, 4))
    merges = linkage(points, "average")
    got = leaves_by_centre(merges, rng.random(30)).tolist()
    position = {item: i for i, item in enumerate(got)}
    members = {i: [i] for i in range(30)}
    for i, (a, b, *_) in enumerate(merges):  # the leaves of every merge stand together
        members[30 + i] = members[int(a)] + members[int(b)]
        at = sorted(position[item] for item in members[30 + i])
        assert at == list(range(at[0], at[0] + len(at)))
    assert sorted(got) == sorted(leaves_list(merges).tolist())


def test_correlations_are_numpys_and_0_for_constant_columns():
    codes = np.random.default_rng(0).random((20, 6)).astype(np.float32)
    codes[:, 2], codes[:, 4] = 0, 0.1
    result = correlations(codes)
    varying = [0, 1, 3, 5]
    assert result[np.ix_(varying, varying)] == pytest.approx(np.corrcoef(codes[:, varying].T), abs=1e-5)
    assert not result[2].any() and not result[4].any()


def test_rows_are_divided_evenly_over_leaves():
    leaf = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 5, 20]))
    rows = evenly(leaf, 30, None, 0)
    assert np.bincount(leaf[rows]).tolist() == [12, 5, 12]  # 13 of each would be 31
    assert (np.diff(leaf[rows]) >= 0).all() and len({*rows.tolist()}) == len(rows)
    assert np.bincount(leaf[evenly(leaf, 100, 4, 0)]).tolist() == [4, 4, 4]
    assert len(evenly(leaf, 100, None, 0)) == 75
    assert np.array_equal(evenly(leaf, 30, None, 5), evenly(leaf, 30, None, 5))
    assert len(evenly(np.arange(100), 30, None, 0)) == 30 and len(evenly(leaf, 6, 4, 0)) == 6


def test_explained_is_the_ratio_of_sums_of_squares():
    rng = np.random.default_rng(0)
    codes, leaf = rng.random((40, 5)) * (rng.random((40, 5)) < 0.5), rng.integers(0, 4, 40)
    codes[:, 3], codes[:, 4] = 0, 0.3
    result = explained(csc_matrix(codes), leaf)
    for j in range(3):
        between = sum((leaf == k).sum() * (codes[leaf == k, j].mean() - codes[:, j].mean()) ** 2 for k in range(4))
        assert result[j] == pytest.approx(between / ((codes[:, j] - codes[:, j].mean()) ** 2).sum())
    assert result[3] == result[4] == 0


def test_images_are_clustered_by_their_codes():
    codes = blocks()[:39, 1:]
    rows, cluster = clusters(codes, 3)
    assert sorted(rows.tolist()) == list(range(39)) and (np.diff(cluster[rows]) >= 0).all()
    assert [len({*cluster[start : start + 13].tolist()}) for start in (0, 13, 26)] == [1, 1, 1]
    assert len({*cluster.tolist()}) == 3
