"""The bootstrap of the difference of means equals a loop over its draws."""

import numpy as np
import pytest
from contrasts.pairs import codes, pair
from scipy.sparse import csc_matrix

from saev.contrasts.statistics import pair_statistics
from saev.metrics.resampling import draws, interval


@pytest.mark.parametrize("per_cluster", [1, 3])
def test_intervals_are_those_of_resampled_clusters(per_cluster):
    scores = codes(60, 6)
    sides = pair(22, 31, 60, 2, per_cluster=per_cluster)
    (statistics,) = pair_statistics(csc_matrix(scores), [sides], n_permutations=2, bootstrap=50, seed=3)
    clusters = [np.unique(sides.cluster[group]) for group in (sides.is_a, ~sides.is_a)]
    drawn = [draws(len(members), 50, 6 + g) for g, members in enumerate(clusters)]
    for j in range(6):
        differences = []
        for r in range(50):
            means = []
            for g, members in enumerate(clusters):
                drawn_members = members.repeat(drawn[g][:, r])
                images = [np.flatnonzero(sides.cluster == c) for c in drawn_members]
                means.append(scores[sides.rows[np.concatenate(images)], j].mean(dtype=float))
            differences.append(means[0] - means[1])
        expected = interval(np.array(differences), statistics.columns["difference"][j])
        bounds = [statistics.columns[f"difference_{side}"][j] for side in ("low", "high")]
        np.testing.assert_allclose(bounds, expected, atol=1e-6)


def test_few_clusters_have_no_interval():
    sides = pair(8, 30, 60, per_cluster=2)
    (statistics,) = pair_statistics(codes(60, 4), [sides], n_permutations=2, bootstrap=10)
    assert np.isnan(statistics.columns["difference_low"]).all()
