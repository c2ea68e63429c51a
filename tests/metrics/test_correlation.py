"""Mean absolute correlation against numpy.corrcoef, whatever the split into batches."""

import numpy as np
import pytest
import torch

from saev.metrics.correlation import CodeCorrelation, mean_absolute_correlation


def _codes(n=300, d_sae=40, offset=0.0):
    """Sparse codes of correlated latents; the first two never fire, the third is constant."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(n, 5)) @ rng.normal(size=(5, d_sae)) + rng.normal(size=(n, d_sae))
    codes = np.maximum(shared - 1, 0) + offset
    codes[:, :2], codes[:, 2] = 0, 1.25
    return torch.from_numpy(codes.astype(np.float32))


def _numpy(codes):
    f = codes.double().numpy()
    corr = np.abs(np.corrcoef(f[:, f.std(0) > 0].T))
    return corr[~np.eye(len(corr), dtype=bool)].mean()


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_it_is_numpys_corrcoef_over_latents_that_vary(block):
    codes = _codes()
    f = codes.double()
    found = mean_absolute_correlation(torch.tensor(len(f)), f.sum(0), f.T @ f, block)
    assert found.item() == pytest.approx(_numpy(codes), rel=1e-9)
    assert 0.05 < found.item() < 0.95


def test_a_large_mean_costs_no_digits():
    """Codes of dense dictionaries lie far from 0."""
    codes = _codes(offset=100.0)
    metric = CodeCorrelation(40)
    metric.update(codes)
    assert metric.compute().item() == pytest.approx(_numpy(codes), rel=1e-7)


@pytest.mark.parametrize("cuts", [[150], [1, 2, 299]])
def test_it_does_not_depend_on_the_split(cuts):
    codes, whole, split = _codes(), CodeCorrelation(40), CodeCorrelation(40)
    whole.update(codes)
    for start, stop in zip([0, *cuts], [*cuts, 300], strict=True):
        split.update(codes[start:stop])
    assert split.compute().item() == pytest.approx(whole.compute().item(), rel=1e-12)
    split.reset()
    split.update(codes)
    assert torch.equal(split.gram, whole.gram)


def test_parts_of_several_processes_add_up():
    codes, whole, first, second = _codes(), *(CodeCorrelation(40) for _ in range(3))
    whole.update(codes)
    first.update(codes[:77])
    second.update(codes[77:])
    first.merge_state(second)
    assert all(getattr(first, name).dtype in (torch.int64, torch.float64) for name in first._defaults)
    assert first.compute().item() == pytest.approx(whole.compute().item(), rel=1e-12)


def test_above_the_limit_the_same_sample_is_taken_every_time():
    codes, metric = _codes(), CodeCorrelation(40, most=16)
    metric.update(codes)
    assert metric.gram.shape == (16, 16)
    assert torch.equal(metric.chosen, CodeCorrelation(40, most=16).chosen) and len(metric.chosen.unique()) == 16
    assert metric.compute().item() == pytest.approx(_numpy(codes[:, metric.chosen]), rel=1e-9)


def test_dependent_latents_correlate_fully_and_one_alone_not_at_all():
    metric = CodeCorrelation(3)
    metric.update(torch.tensor([[1.0, -2.0, 0.0], [3.0, -6.0, 0.0], [0.0, 0.0, 0.0]]))
    assert metric.compute().item() == pytest.approx(1.0, rel=1e-12)
    alone = CodeCorrelation(2)
    alone.update(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    assert torch.isnan(alone.compute())
