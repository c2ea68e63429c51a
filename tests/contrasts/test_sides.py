"""Groups that overlap or share a cluster are refused; folds keep clusters together and groups balanced."""

import numpy as np
import pytest
from contrasts.pairs import pair

from saev.contrasts.sides import Sides


@pytest.mark.parametrize(
    ("a", "b", "cluster", "message"),
    [
        ([], [1], [0], "group a has no images"),
        ([1], [], [0], "group b has no images"),
        ([1, 2], [2], [0, 1, 2], "in both groups"),
        ([1, 2], [3], [0, 1, 1], "1 clusters have images in both groups"),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused(a, b, cluster, message):
    with pytest.raises(ValueError, match=message):
        Sides("x", *(np.array(v, np.int64) for v in (a, b, cluster)), np.zeros(len(cluster), np.int64))


def test_clusters_are_counted_by_stratum_and_may_span_several():
    sides = Sides("x", np.array([5, 3, 1]), np.array([0, 2]), np.array([70, 70, 9, 4, 4]), np.array([8, 6, 6, 6, 8]))
    assert sides.cluster.tolist() == [2, 2, 1, 0, 0] and sides.stratum.tolist() == [1, 0, 0, 0, 1]
    assert sides.images.tolist() == [[1, 1], [1, 0], [1, 1]]
    assert sides.cluster_is_a.tolist() == [False, True, True] and sides.images_a.tolist() == [2, 1]
    both, single, again = sides.exchangeable
    assert both == again != single
    assert sides.position(7).tolist() == [3, 2, 4, 1, -1, 0, -1]


def test_groups_without_a_stratum_in_common_are_not_comparable():
    def sides(stratum):
        return Sides("x", np.arange(3), np.arange(3, 6), np.array([0, 0, 1, 2, 2, 3]), np.array(stratum))

    assert sides([0] * 6).comparable and sides([0, 1, 0, 0, 1, 1]).comparable
    assert not sides([0, 0, 0, 1, 1, 1]).comparable and not sides([0, 1, 2, 0, 0, 0]).comparable


def test_folds_hold_whole_clusters_of_both_groups():
    sides = pair(23, 17, 100, per_cluster=2)
    fold = sides.folds(5, seed=3)
    for group in (sides.cluster_is_a, ~sides.cluster_is_a):
        counts = np.bincount(fold[group], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert (fold == sides.folds(5, seed=3)).all() and (fold != sides.folds(5, seed=4)).any()


def test_folds_have_clusters_of_both_groups_however_few_there_are():
    for n_a, n_b in ((3, 3), (4, 7), (2, 20), (5, 5), (13, 6)):
        rows = np.arange(n_a + n_b)
        sides = Sides("x", rows[:n_a], rows[n_a:], rows, np.zeros_like(rows))
        fold = sides.folds(5)
        assert fold.max() + 1 == min(5, n_a, n_b)
        for number in range(fold.max() + 1):
            inside = sides.cluster_is_a[fold == number]
            assert inside.any() and not inside.all()


def test_the_smallest_p_is_that_of_all_arrangements():
    rows = np.arange(6)
    balanced = Sides("x", rows[:3], rows[3:], rows, np.zeros_like(rows))
    assert balanced.smallest_p == pytest.approx(2 / 20) and not balanced.alone.any()
    rows = np.arange(5)
    assert Sides("x", rows[:2], rows[2:], rows, np.zeros_like(rows)).smallest_p == pytest.approx(1 / 10)
    strata = np.array([0, 0, 0, 1, 0])
    assert Sides("x", rows[:2], rows[2:], rows, strata).alone.tolist() == [False, False, False, True, False]
