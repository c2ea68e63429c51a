"""The Gram matrix of codes against NumPy's, by both paths."""

import numpy as np
import pytest
import torch

from benchmarks.ops_reference import gram_reference
from saev.ops import gram as module
from saev.ops.gram import add_gram


def _codes(batch, m, density, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(batch, m)) * (rng.random((batch, m)) < density)
    codes[::7] = 0  # tokens on which nothing fires
    return torch.from_numpy(codes.astype(np.float32))


@pytest.mark.parametrize("path", ["auto", "sparse", "dense"])
@pytest.mark.parametrize(("batch", "m", "density"), [(1, 5, 1.0), (50, 12, 0.2), (40, 30, 0.9), (9, 7, 0.0)])
def test_paths_equal_numpy(path, batch, m, density):
    codes = _codes(batch, m, density)
    start = torch.from_numpy(np.random.default_rng(1).normal(size=(m, m)))
    expected = start.numpy() + np.einsum("bi,bj->ij", *[codes.numpy().astype(np.float64)] * 2)
    np.testing.assert_allclose(add_gram(start.clone(), codes, path).numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gram_reference(codes).numpy(), expected - start.numpy(), rtol=1e-12, atol=1e-12)


def test_sparse_codes_take_the_sparse_path(monkeypatch):
    added = []
    monkeypatch.setattr(module, "_add_pairs", lambda gram, codes: added.append(len(codes)))
    add_gram(torch.zeros(200, 200).double(), _codes(30, 200, 0.02))
    assert added == [30]
    add_gram(torch.zeros(200, 200).double(), _codes(30, 200, 0.8))
    assert added == [30]
