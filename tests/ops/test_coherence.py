"""Blockwise coherence against NumPy's full Gram matrix."""

import numpy as np
import pytest
import torch

from benchmarks.ops_reference import coherence_reference
from saev.ops.coherence import coherence


def _numpy(atoms):
    rows = atoms.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    cos = np.abs(unit @ unit.T)
    np.fill_diagonal(cos, 0)
    return cos


@pytest.mark.parametrize(("n", "d_model", "block"), [(50, 8, 1024), (50, 8, 50), (50, 8, 16), (97, 5, 32), (33, 3, 32)])
def test_ragged_blocks_equal_the_full_gram(n, d_model, block):
    atoms = np.random.default_rng(n).normal(size=(n, d_model)).astype(np.float32)
    cos = _numpy(atoms)
    found = coherence(torch.from_numpy(atoms), block)
    assert found.max.item() == pytest.approx(cos.max(), rel=1e-6)
    assert found.mean_max.item() == pytest.approx(cos.max(1).mean(), rel=1e-6)
    assert tuple(found.pair.tolist()) == tuple(sorted(np.unravel_index(cos.argmax(), cos.shape)))


def test_reference_says_the_same():
    atoms = torch.randn(130, 16, generator=torch.Generator().manual_seed(0))
    found, expected = coherence(atoms, block=48), coherence_reference(atoms)
    torch.testing.assert_close(found.max.float(), expected.max)
    torch.testing.assert_close(found.mean_max.float(), expected.mean_max)
    assert found.pair.tolist() == expected.pair.sort().values.tolist()


@pytest.mark.parametrize("sign", [1.0, -2.0])
@pytest.mark.parametrize("twin", [3, 39])  # within a block, and across two
def test_parallel_atoms_have_coherence_one(sign, twin):
    atoms = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    atoms[twin] = sign * atoms[1]
    found = coherence(atoms, block=10)
    assert found.max.item() == pytest.approx(1.0, abs=1e-7) and found.max <= 1
    assert found.pair.tolist() == [1, twin]


def test_zero_atoms_have_cosine_zero():
    atoms = torch.eye(4)
    atoms[2] = 0
    found = coherence(atoms, block=3)
    assert found.max == 0 and found.mean_max == 0


def test_a_single_atom():
    found = coherence(torch.ones(1, 5))
    assert found.max == 0 and found.mean_max == 0 and found.pair.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    atoms = torch.randn(30, 8, generator=torch.Generator().manual_seed(2)).to(dtype)
    cos = _numpy(atoms.double().numpy())
    assert coherence(atoms).max.item() == pytest.approx(cos.max(), rel=1e-6)


def test_atoms_that_require_a_gradient_leave_no_graph():
    assert not coherence(torch.randn(8, 4, requires_grad=True)).mean_max.requires_grad


def test_no_atoms_is_an_error():
    with pytest.raises(ValueError, match="0 atoms"):
        coherence(torch.zeros(0, 4))
