"""Average precision from bins: that of rounded scores, near scikit-learn's on others, and additive."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from saev.metrics import ranking
from saev.metrics.score_bins import N_BINS, average_precision, bins, cells, softmax_log_odds


def counted(scores, labels):
    place = cells(scores)
    size = scores.shape[1] * N_BINS
    tokens, positives = (torch.bincount(p, minlength=size).view(-1, N_BINS) for p in (place.flatten(), place[labels]))
    return positives, tokens


@pytest.fixture
def drawn():
    rng = torch.Generator().manual_seed(0)
    labels = torch.rand(3000, 5, generator=rng) < torch.tensor([0.5, 0.1, 0.01, 0.3, 0.0])
    return torch.randn(3000, 5, generator=rng) * 2 + labels, labels


def test_it_is_that_of_scikit_learn(drawn):
    scores, labels = drawn
    found = average_precision(*counted(scores, labels))
    rounded = bins(scores)
    for c in range(4):
        one = ranking.average_precision(rounded[:, c].numpy(), labels[:, c].numpy())
        assert float(found[c]) == pytest.approx(one, rel=1e-12)
        assert float(found[c]) == pytest.approx(average_precision_score(labels[:, c], scores[:, c]), abs=2e-3)
    assert found[4].isnan()  # no positive


def test_counts_of_halves_add_up(drawn):
    scores, labels = drawn
    whole = counted(scores, labels)
    halves = (counted(scores[s], labels[s]) for s in (slice(0, 99), slice(99, None)))
    for one, sums in zip(whole, map(sum, zip(*halves, strict=True)), strict=True):
        assert torch.equal(one, sums)


def test_scores_beyond_the_limits_take_the_outermost_bins():
    assert bins(torch.tensor([-torch.inf, -1e6, 1e6, torch.inf])).tolist() == [0, 0, N_BINS - 1, N_BINS - 1]


def test_bins_are_fine_where_tokens_are_many_and_never_end_for_the_sure():
    x = torch.arange(-320, 321) / 40
    assert bins(x).diff().ge(1).all() and bins(torch.tensor([40.0, 40.1])).diff() == 1
    assert bins(torch.tensor([500.0, 510.0])).diff() >= 1


def test_log_odds_are_those_of_the_softmax():
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 4
    p = logits.double().softmax(1)
    np.testing.assert_allclose(softmax_log_odds(logits), (p / (1 - p)).log(), rtol=1e-5, atol=1e-5)


def test_log_odds_of_one_who_is_sure_are_not_lost_to_rounding():
    torch.testing.assert_close(softmax_log_odds(torch.tensor([[200.0, 0.0]])), torch.tensor([[200.0, -200.0]]))
    assert softmax_log_odds(torch.tensor([[3.0]])).item() == torch.inf  # a single class
