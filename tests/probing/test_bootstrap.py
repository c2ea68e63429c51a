"""The bootstrap over images against doing it: the images' tokens put together anew, and the numbers computed from them."""

import numpy as np
import pytest
import torch
from probing.labelled import table

from saev.probing.bootstrap import (
    ColumnCodes,
    average_precisions,
    cross_entropies,
    draws,
    image_losses,
    interval,
)
from saev.probing.ranking import average_precision

RNG = np.random.default_rng(0)
IMAGE = np.repeat(np.arange(12), 20)
X = np.where(RNG.random(240) < 0.6, 2.0 ** RNG.integers(-3, 4, 240), 0) * np.where(RNG.random(240) < 0.2, -1, 1)
Y = RNG.random(240) < 0.1 + 0.3 * (X > 1)
Y[IMAGE == 3] = False


def evidence():
    fired = X != 0
    return ColumnCodes(
        X[fired].astype(np.float32), Y[fired], IMAGE[fired], np.bincount(IMAGE), np.bincount(IMAGE[Y], minlength=12)
    )


def tokens(drawn):
    """The tokens of one resample."""
    return np.concatenate([np.flatnonzero(e == IMAGE) for e, times in enumerate(drawn) for _ in range(times)])


def test_each_resample_draws_as_many_images_as_there_are():
    drawn = draws(12, 50, seed=1)
    assert drawn.shape == (12, 50) and (drawn.sum(0) == 12).all() and len(np.unique(drawn, axis=1).T) == 50
    assert np.array_equal(drawn, draws(12, 50, seed=1)) and not np.array_equal(drawn, draws(12, 50, seed=2))


def test_a_resample_has_the_average_precision_of_its_tokens():
    drawn = draws(12, 20)
    found = average_precisions(evidence(), drawn)
    for i in range(20):
        own = tokens(drawn[:, i])
        x, y = torch.from_numpy(X[own, None]).float(), torch.from_numpy(Y[own]).long()
        assert found[i] == pytest.approx(average_precision(table(x, y))[0, 1].item(), rel=1e-10)


def test_a_resample_without_the_class_has_none():
    drawn = np.zeros((12, 1), np.int64)
    drawn[3] = 12
    assert np.isnan(average_precisions(evidence(), drawn)).all()


def test_losses_and_entropies_are_sums_over_the_resample():
    drawn, b, w = draws(12, 5), -1.5, 0.7
    losses, priors = cross_entropies(evidence(), b, w, drawn, "none")
    for i in range(5):
        own = tokens(drawn[:, i])
        score, y = b + w * X[own], Y[own]
        assert losses[i] == pytest.approx((np.logaddexp(0, score) - y * score).sum(), rel=1e-10)
        share = y.mean()
        assert priors[i] == pytest.approx(-len(own) * (share * np.log(share) + (1 - share) * np.log(1 - share)))


def test_balanced_ones_are_half_of_either_sides_mean():
    drawn, b, w = np.column_stack([draws(12, 5), np.eye(12, dtype=int)[3] * 12]), -0.5, 0.7
    losses, priors = cross_entropies(evidence(), b, w, drawn, "balanced")
    for i in range(5):
        own = tokens(drawn[:, i])
        score, y = b + w * X[own], Y[own]
        each = np.logaddexp(0, score) - y * score
        assert losses[i] == pytest.approx((each[y].mean() + each[~y].mean()) / 2, rel=1e-10)
        assert priors[i] == pytest.approx(np.log(2), rel=1e-15)
    assert np.isnan(losses[5]) and np.isnan(priors[5])  # no token of the class


def test_an_interval_holds_the_middle_and_lies_around_what_was_found():
    values = np.append(np.linspace(0.3, 0.5, 1001), np.nan)
    low, high = interval(values, 0.38)
    assert low == pytest.approx(0.38 - 0.095) and high == pytest.approx(0.38 + 0.095)
    assert np.isnan(interval(np.full(3, np.nan), 0.3)).all()


def test_a_latent_that_is_silent_on_all_images_loses_what_its_bias_does():
    nothing = np.zeros(0)
    evidence = ColumnCodes(nothing, nothing.astype(bool), nothing.astype(np.int64), np.array([5, 3]), np.array([2, 0]))
    negative, positive = image_losses(evidence, -1.0, 2.0)
    np.testing.assert_allclose(negative, [3 * np.log1p(np.exp(-1)), 3 * np.log1p(np.exp(-1))], rtol=1e-12)
    np.testing.assert_allclose(positive, [2 * np.log1p(np.exp(1)), 0], rtol=1e-12)
