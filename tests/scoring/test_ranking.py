"""The AP of all pairs over subsets of units equals that of one pair after the other."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy.sparse import csc_matrix
from sklearn.metrics import average_precision_score
from trait_evaluation.protocol import labels, scores

from saev.metrics.ranking import average_precision
from saev.scoring.ranking import Labels, average_precisions, rank


@pytest.mark.parametrize("convert", [np.asarray, csc_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("signed", [False, True], ids=["positive", "signed"])
@pytest.mark.parametrize("unknown", [0, 0.2])
@pytest.mark.parametrize("levels", [4, 10**6], ids=["ties", "few ties"])
@pytest.mark.parametrize("ties", ["expected", "last"])
def test_every_pair_has_the_ap_that_it_has_alone(convert, signed, unknown, levels, ties):
    rng = np.random.default_rng(0)
    values, traits = scores(70, 12, 0.4, 1, levels), labels(70, 5, 2, unknown)
    if signed:
        values *= rng.choice([-1, 1], values.shape)
    subset = rng.random(70) < 0.7
    table = Labels(traits, ties)
    aps = average_precisions(rank(convert(values), 2, 9), table, table.subset(subset))
    assert aps.shape == (7, 5)
    for prototype in range(7):
        for trait in range(5):
            units = subset & (traits[:, trait] >= 0)
            y, s = traits[units, trait] == 1, values[units, 2 + prototype]
            if not y.any():
                assert np.isnan(aps[prototype, trait])
                continue
            alone = average_precision(s, y) if ties == "expected" else average_precision_score(y, s)
            assert aps[prototype, trait] == pytest.approx(alone, abs=1e-12)


def test_expected_ap_is_the_mean_over_all_orders_of_the_ties():
    score = np.array([[3], [2], [2], [2], [1], [0], [0], [0]], np.float32)
    traits = np.array([0, 1, 0, 1, 1, 0, 1, 0], np.int8)[:, None]
    table = Labels(traits)
    ((ap,),) = average_precisions(rank(score, 0, 1), table, table.subset(np.ones(8, bool)))
    untied = [
        score[:, 0] + np.array([0, *of_2, 0, *of_0]) / 10
        for of_2, of_0 in product(permutations(range(3)), permutations(range(3)))
    ]
    assert ap == pytest.approx(np.mean([average_precision_score(traits[:, 0], one) for one in untied]), abs=1e-12)


def test_a_score_that_is_the_same_everywhere_has_the_prevalence_as_its_ap():
    traits = (np.arange(1000) % 10 == 0).astype(np.int8)[:, None]
    table = Labels(traits, "last")
    everything = table.subset(np.ones(1000, bool))
    for value in (0, 2):
        constant = np.full((1000, 1), value, np.float32)
        assert average_precisions(rank(constant, 0, 1), table, everything) == pytest.approx(0.1)
    assert table.constant_ap(everything) == pytest.approx(0.1)
    in_expectation = Labels(traits)
    (ap,) = average_precisions(rank(constant, 0, 1), in_expectation, everything)
    assert ap == in_expectation.constant_ap(everything) and 0.1 < ap < 0.11


def test_no_subset_without_units():
    table = Labels(labels(10, 3, 0))
    assert np.isnan(
        average_precisions(rank(scores(10, 6, 0.5, 0), 0, 6), table, table.subset(np.zeros(10, bool)))
    ).all()
