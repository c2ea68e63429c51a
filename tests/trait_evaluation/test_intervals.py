"""Resamples of the test images, and the paired difference of two methods."""

import numpy as np
import pytest
from scipy.sparse import csc_matrix
from scipy.stats import binomtest
from trait_evaluation.protocol import labels, scores

from saev.metrics.ranking import average_precision
from saev.metrics.resampling import draws
from saev.trait_evaluation import intervals
from saev.trait_evaluation.grid import Choices
from saev.trait_evaluation.intervals import ResampledUnits, cell_draws, difference, resample


@pytest.mark.parametrize("convert", [np.asarray, csc_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("shift", [0, -1, 1], ids=["ties at 0", "negative scores", "no score 0"])
@pytest.mark.parametrize("entries", [1 << 20, 100], ids=["at once", "in parts"])
def test_a_resample_has_the_ap_of_its_units(convert, shift, entries, monkeypatch):
    monkeypatch.setattr(intervals, "ENTRIES", entries)
    test, traits = scores(60, 8, 0.6, 0) + np.float32(shift), labels(60, 3, 1)
    image = np.arange(60) // 2  # two units of each image
    drawn = draws(30, 5, 0)
    units = ResampledUnits(traits, image, drawn)
    prototype = np.array([2, 0, 5]).reshape(1, 1, 1, 3)
    choices = Choices(prototype, *np.zeros((2, 1, 1, 1, 3)), np.zeros((8, 3), np.float32))
    resampled = resample(convert(test), units, choices)
    assert {*resampled} == {(2, 0), (5, 2)}  # trait 1 is of no unit
    for (p, t), aps in resampled.items():
        for number in range(5):
            rows = np.repeat(np.arange(60), drawn[image, number])
            rows = rows[traits[rows, t] >= 0]
            assert aps[number] == pytest.approx(average_precision(test[rows, p], traits[rows, t] == 1), abs=1e-6)
    mean = cell_draws(resampled, prototype[0, 0, 0][None], 5)
    assert mean == pytest.approx((resampled[2, 0].astype(float) + resampled[5, 2]) / 2)


def test_scores_far_from_zero_are_not_tied():
    rng = np.random.default_rng(0)
    test = (1000 + rng.normal(size=(60, 1))).astype(np.float32)
    traits = (test[:, :1] > 1000.5).astype(np.int8)
    units = ResampledUnits(traits, np.arange(60), draws(60, 4, 0))
    choices = Choices(np.zeros((1, 1, 1, 1), np.int64), *np.zeros((2, 1, 1, 1, 1)), np.zeros((1, 1), np.float32))
    assert resample(test, units, choices)[0, 0] == pytest.approx(np.ones(4))


def test_traits_of_fewer_than_five_images_have_no_interval():
    traits = np.zeros((60, 2), np.int8)
    traits[:8, 0] = traits[:10, 1] = 1  # in 4 and in 5 images
    units = ResampledUnits(traits, np.arange(60) // 2, draws(30, 3, 0))
    assert units.enough().tolist() == [False, True]


def test_the_paired_difference_counts_traits_and_has_an_interval():
    rng = np.random.default_rng(0)
    reference = rng.random((2, 9))
    ap = reference + np.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, -0.05, 0, np.nan])
    noise = rng.normal(scale=0.02, size=1000)
    row = difference(ap, reference, 0.5 + noise, 0.44 + np.zeros(1000))
    assert row["diff"] == pytest.approx((6 * 0.1 - 0.05) / 8) and (row["better"], row["worse"]) == (6, 1)
    assert "p" not in row and difference(ap, reference, None, None, 999)["p"] == pytest.approx(2 * 2 / 2**7, abs=0.02)
    assert row["sign_p"] == pytest.approx(binomtest(6, 7).pvalue)
    assert row["diff_high"] - row["diff_low"] == pytest.approx(2 * 1.96 * 0.02, rel=0.1)
    assert row["diff_low"] < row["diff"] < row["diff_high"]
    assert difference(np.full((1, 2), np.nan), np.zeros((1, 2)), noise, noise) == {}
