"""Every formula against scikit-learn or a few lines of NumPy."""

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_squared_error, r2_score

from saev.metrics import functional as F

RNG = np.random.default_rng(0)


def _activations(n=400, d_model=12, mean=1000.0):
    """float32 rows whose mean is far larger than their spread, and a noisy reconstruction."""
    scale = RNG.uniform(0.1, 3.0, d_model)
    x = (mean + RNG.normal(size=(n, d_model)) * scale).astype(np.float32)
    x_hat = (x + RNG.normal(size=x.shape) * 0.3).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(x_hat)


def _codes(n=1000, d_sae=40):
    """Codes of frequencies from 0 to 0.9, some negative (PCA's are signed)."""
    fires = RNG.uniform(size=(n, d_sae)) < np.linspace(0, 0.9, d_sae)
    return torch.from_numpy(np.where(fires, RNG.normal(size=(n, d_sae)), 0.0).astype(np.float32))


@pytest.mark.parametrize("shift", [0.0, 990.0, 1000.0])
def test_explained_variance_is_sklearns_r2(shift):
    x, x_hat = _activations()
    n, total, square = F.moments_update(x, torch.full((12,), shift))
    variation = F.variation_compute(torch.tensor(n), total, square)
    error = F.squared_error_update(x, x_hat)
    expected = r2_score(x.double(), x_hat.double(), multioutput="variance_weighted")
    assert F.explained_variance_compute(error, variation).item() == pytest.approx(expected, rel=1e-8)
    assert F.nmse_compute(error, variation).item() == pytest.approx(1 - expected, rel=1e-8)
    assert F.mse_compute(error, torch.tensor(n), 12).item() == pytest.approx(
        mean_squared_error(x.double(), x_hat.double()), rel=1e-12
    )


def test_predicting_the_mean_scores_one():
    """Guards against explained variance about zero, which a large mean makes look good (a known fault of a peer)."""
    x, _ = _activations()
    n, total, square = F.moments_update(x, x[0])
    variation = F.variation_compute(torch.tensor(n), total, square)
    mean = x.double().mean(0).expand(len(x), -1)
    assert F.nmse_compute((x.double() - mean).square().sum(), variation).item() == pytest.approx(1.0, rel=1e-12)


def test_moments_of_parts_add_up_to_the_whole():
    x, _ = _activations()
    shift = x[:10].double().mean(0)
    whole = F.moments_update(x, shift)
    parts = [F.moments_update(part, shift) for part in x.split([1, 150, 249])]
    assert sum(p[0] for p in parts) == whole[0]
    torch.testing.assert_close(sum(p[1] for p in parts), whole[1], rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(sum(p[2] for p in parts), whole[2], rtol=1e-12, atol=0)


def test_half_precision_reconstructions_are_not_subtracted_in_half():
    x = torch.full((4, 8), 100.0)
    assert F.squared_error_update(x, torch.full((4, 8), 100.5, dtype=torch.bfloat16)).item() == 4 * 8 * 0.25


def test_statistics_of_members_may_be_stacked():
    variation, n = torch.tensor(4.0).double(), torch.tensor(2)
    errors = torch.tensor([1.0, 2.0, 4.0]).double()
    assert F.nmse_compute(errors, variation).tolist() == [0.25, 0.5, 1.0]
    assert F.mse_compute(errors, n, 2).tolist() == [0.25, 0.5, 1.0]
    firings = torch.tensor([[0, 1, 2], [2, 2, 2]])
    assert F.l0_compute(firings, n).tolist() == [1.5, 3.0]
    assert F.dead_compute(firings).tolist() == [1 / 3, 0.0]
    assert F.frequency_compute(firings, torch.tensor([2, 4])).tolist() == [[0, 0.5, 1], [0.5, 0.5, 0.5]]


def test_sparsity_counts_what_a_loop_counts():
    codes = _codes()
    active = [sum(1 for value in row if value != 0) for row in codes.tolist()]
    absolute = [sum(abs(value) for value in row) for row in codes.tolist()]
    n, firings = torch.tensor(len(codes)), F.firings_update(codes)
    assert F.l0(codes).item() == F.l0_compute(firings, n).item() == np.mean(active)
    assert F.l1(codes).item() == pytest.approx(np.mean(absolute), rel=1e-12)
    assert F.l1_compute(F.l1_update(codes), n).item() == F.l1(codes).item()


def test_l1_does_not_grow_with_the_batch():
    codes = _codes()
    assert F.l1(codes.repeat(3, 1)).item() == pytest.approx(F.l1(codes).item(), rel=1e-12)


def test_latents_by_frequency():
    codes = _codes()
    fired = (codes != 0).numpy()
    frequency = fired.mean(0)
    n, firings = torch.tensor(len(codes)), F.firings_update(codes)
    assert firings.dtype == torch.int64
    np.testing.assert_allclose(F.frequency_compute(firings, n), frequency, rtol=1e-15)
    assert F.dead_compute(firings).item() == (frequency == 0).mean() > 0
    assert F.dense_compute(firings, n, above=0.1).item() == (frequency > 0.1).mean()
    assert F.dense_compute(firings, n, above=0.01).item() == (frequency > 0.01).mean()
    with np.errstate(invalid="ignore"):
        mean = codes.double().numpy().sum(0) / fired.sum(0)
    np.testing.assert_allclose(F.mean_value_compute(codes.sum(0, dtype=torch.float64), firings), mean, rtol=1e-12)
    assert np.isnan(mean[0])


def test_thresholds_are_strict():
    firings, n = torch.tensor([0, 1, 9, 10, 10_000_000]), torch.tensor(10_000_000)
    assert F.almost_dead_compute(firings, n).item() == pytest.approx(3 / 5)  # 10 in 10 million is not below 1e-6
    assert F.dense_compute(torch.tensor([10, 11]), torch.tensor(100), above=0.1).item() == 0.5


def test_mean_atom_norm():
    atoms = RNG.normal(size=(30, 8)).astype(np.float32)
    expected = np.linalg.norm(atoms.astype(np.float64), axis=1).mean()
    assert F.mean_atom_norm(torch.from_numpy(atoms)).item() == pytest.approx(expected, rel=1e-12)
