"""The k largest, by sorting; equal values, NaN and infinities among them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.ops_reference import topk_reference
from saev.ops import selection
from saev.ops.selection import beyond, fraction_beyond, largest, largest_per_row
from saev.ops.sparse import select_beyond
from saev.ops.topk import batchtopk, topk


def _rows(rows, n, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, n)).astype(np.float32)


def _descending(values):
    """Per row, NaN first: as torch.topk has it."""
    return np.sort(values, axis=1)[:, ::-1]


@pytest.mark.parametrize("slab", [1, 4096, 1 << 20])
@pytest.mark.parametrize(("rows", "n", "k"), [(1, 1, 1), (300, 3072, 32), (37, 1000, 7), (64, 96, 96), (5, 4097, 512)])
def test_the_largest_of_each_row(monkeypatch, slab, rows, n, k):
    monkeypatch.setattr(selection, "SLAB", slab)
    h = _rows(rows, n)
    kept = largest_per_row(h, k)
    assert np.all(np.diff(kept.indices) > 0) and np.array_equal(h.reshape(-1)[kept.indices], kept.values)
    assert np.array_equal(kept.indices // n, np.repeat(np.arange(rows), k))
    np.testing.assert_array_equal(_descending(kept.values.reshape(rows, k)), _descending(h)[:, :k])


@given(
    arrays(np.float32, (6, 48), elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 1.0, 2.0, np.inf, np.nan])),
    st.integers(1, 48),
)
@settings(deadline=None, max_examples=200)
def test_ties_infinities_and_nan(h, k):
    kept = largest_per_row(h, k)
    assert np.all(np.diff(kept.indices) > 0) and np.array_equal(kept.indices // 48, np.repeat(np.arange(6), k))
    np.testing.assert_array_equal(_descending(kept.values.reshape(6, k)), _descending(h)[:, :k])


def test_nan_in_one_row_and_a_tie_in_another_leave_every_row_its_own():
    for seed in range(20):
        h = _rows(3, 640, seed)
        h[0, seed] = np.nan
        at = np.argsort(h[1])[-4:-2]
        h[1, at] = h[1, at].max()
        kept = largest_per_row(h, 3)
        assert np.array_equal(kept.indices // 640, np.repeat(np.arange(3), 3))
        np.testing.assert_array_equal(_descending(kept.values.reshape(3, 3)), _descending(h)[:, :3])


def test_a_batch_of_nan_keeps_its_budget():
    for share in (1.0, 0.5, 0.01):
        h = torch.from_numpy(_rows(64, 512))
        h[torch.rand(h.shape, generator=torch.Generator().manual_seed(0)) < share] = torch.nan
        found = batchtopk(h, 8)
        assert len(found.indices) == 512 and found.values.isnan().sum() == min(512, int(h.isnan().sum()))
    assert select_beyond(torch.full((64, 512), torch.nan)) is None


@pytest.mark.slow
def test_tracing_takes_what_torch_has(run_python):
    """In a process of its own: the checking of shapes cannot be traced."""
    done = run_python(
        "-c",
        "import torch; from saev.ops.topk import topk_codes\n"
        "codes, h = lambda h: topk_codes(h, 3), torch.randn(8, 100)\n"
        "assert torch.equal(torch.compile(codes, backend='eager', fullgraph=True)(h), codes(h))",
    )
    assert done.code == 0, done.err


def test_one_nan_among_many_is_found():
    h = _rows(50, 3000)
    h[17, 2999] = np.nan
    assert np.isnan(largest_per_row(h, 3).values).sum() == 1


def test_torch_and_numpy_select_the_same(monkeypatch):
    h = torch.from_numpy(_rows(40, 900))
    found, reference = topk(h, 9), topk_reference(h, 9)
    assert torch.equal(found.indices, reference.indices) and torch.equal(found.values, reference.values)
    monkeypatch.setattr("saev.ops.topk.by_numpy", lambda h: False)
    assert torch.equal(topk(h, 9).indices.sort().values, reference.indices)


@pytest.mark.parametrize("bound", [-10.0, 0.0, 1.5, 10.0])
def test_beyond_a_bound(bound):
    h = _rows(70, 333)
    h[3, 3] = np.nan
    kept = beyond(h, bound)
    np.testing.assert_array_equal(kept.indices, np.flatnonzero((h.reshape(-1) > bound) | np.isnan(h.reshape(-1))))
    np.testing.assert_array_equal(kept.values, h.reshape(-1)[kept.indices])
    assert abs(fraction_beyond(h, bound) - np.mean(h > bound)) < 0.02


@pytest.mark.parametrize("n", [1, 10, 500, 5000])
def test_the_largest_of_a_list(n):
    values = np.random.default_rng(0).integers(0, 40, 1000).astype(np.float32)
    indices = np.arange(1000) * 3
    kept = largest(selection.Kept(indices, values), n)
    np.testing.assert_array_equal(np.sort(kept.values), np.sort(values)[-n:])
    assert np.all(np.diff(kept.indices) > 0) and len(kept.indices) == min(n, 1000)
