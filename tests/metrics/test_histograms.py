"""Histograms against numpy.histogram; parts add up."""

import numpy as np
import pytest
import torch

from saev.metrics.histograms import (
    FREQUENCY_EDGES,
    VALUE_EDGES,
    ValueHistogram,
    frequency_histogram,
    log10_histogram,
)


def _numpy(values, exponents):
    edges = 10.0 ** np.array(exponents, float)
    edges[0], edges[-1] = 1e-300, np.inf  # open ends
    return np.histogram(values[values > 0], edges)[0]


def test_frequencies_are_counted_as_numpy_counts_them():
    rng = np.random.default_rng(0)
    n = 50_000
    firings = np.concatenate([[0, 0, 1, n, 5, 50, 500, 5000], (n * 10.0 ** rng.uniform(-6, 0, 500)).astype(int)])
    found = frequency_histogram(torch.from_numpy(firings), torch.tensor(n))
    np.testing.assert_array_equal(found.numpy(), _numpy(firings / n, FREQUENCY_EDGES))
    assert found.sum() == (firings > 0).sum() < len(firings)


def test_rarer_than_the_first_bin_is_in_the_first_bin():
    assert frequency_histogram(torch.tensor([1]), torch.tensor(10**9)).tolist()[0] == 1


def test_members_may_be_stacked():
    firings = torch.tensor([[0, 1, 10], [100, 100, 100]])
    found = frequency_histogram(firings, torch.tensor(100))
    assert found.shape == (2, len(FREQUENCY_EDGES) - 1)
    for row, alone in zip(found, firings, strict=True):
        assert torch.equal(row, frequency_histogram(alone, torch.tensor(100)))


def test_nan_and_negative_values_are_in_no_bin():
    assert log10_histogram(torch.tensor([torch.nan, -1.0, 0.0, torch.inf]), (-1, 0, 1)).tolist() == [0, 1]


@pytest.mark.parametrize("cuts", [[100], [1, 2, 199]])
def test_values_are_counted_as_numpy_counts_them_whatever_the_split(cuts):
    rng = np.random.default_rng(0)
    codes = (rng.normal(size=(200, 30)) * 10.0 ** rng.uniform(-6, 6, (200, 30))).astype(np.float32)
    codes[rng.random((200, 30)) < 0.8] = 0
    metric = ValueHistogram()
    for start, stop in zip([0, *cuts], [*cuts, 200], strict=True):
        metric.update(torch.from_numpy(codes[start:stop]))
    np.testing.assert_array_equal(metric.compute().numpy(), _numpy(np.abs(codes.astype(float)).ravel(), VALUE_EDGES))
    assert metric.compute().dtype == torch.int64 and metric.compute().sum() == (codes != 0).sum()
    other = ValueHistogram()
    other.update(torch.from_numpy(codes))
    metric.merge_state(other)
    assert torch.equal(metric.counts, 2 * other.counts)
