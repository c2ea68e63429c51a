"""Agreement of subspaces against SciPy's principal angles."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from saev.metrics.subspaces import subspace_agreement


@pytest.mark.parametrize(("n", "m"), [(3, 3), (2, 5), (7, 4), (1, 1)])
def test_it_is_the_mean_squared_cosine_of_the_angles(n, m):
    rng = np.random.default_rng(n + m)
    a, b = (rng.normal(size=(size, 9)).astype(np.float32) for size in (n, m))
    found = subspace_agreement(torch.from_numpy(a), torch.from_numpy(b))
    expected = np.mean(np.cos(subspace_angles(a.T.astype(float), b.T.astype(float))) ** 2)
    assert found.agreement == pytest.approx(expected, abs=1e-9) and found.null == max(n, m) / 9


def test_it_depends_on_the_span_alone():
    a = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    mixed = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)) @ a
    found = subspace_agreement(a, mixed)
    assert found.agreement == pytest.approx(1, abs=1e-6) and found.null == 0.5, "six atoms of rank 4"


def test_the_null_is_the_mean_of_random_subspaces():
    rng = torch.Generator().manual_seed(0)
    drawn = [subspace_agreement(*(torch.randn(m, 20, generator=rng) for m in (3, 6))).agreement for _ in range(400)]
    assert np.mean(drawn) == pytest.approx(6 / 20, abs=0.01)


def test_rows_of_zeros_span_nothing():
    assert np.isnan(subspace_agreement(torch.zeros(2, 4), torch.eye(4)).agreement)
