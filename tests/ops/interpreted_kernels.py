"""The GPU kernels on CPU tensors, by Triton's interpreter: test_gpu_kernels.py runs this file with TRITON_INTERPRET=1."""

import pytest
import torch
from nn import test_gradients as dense
from torch.testing import assert_close

from benchmarks.ops_reference import topk_reference
from saev.ops import gpu, gpu_sums, gpu_topk, sparse


@pytest.fixture
def taken(monkeypatch):
    """All that a GPU would be asked for goes through the kernels."""
    monkeypatch.setattr(gpu, "kernels", lambda device: True)


def awkward(rows, d_sae, dtype):
    """Pre-activations with ties, infinities, zeros of both signs and NaN of both signs."""
    h = torch.randn(rows, d_sae, generator=torch.Generator().manual_seed(0)).to(dtype)
    for row, special in enumerate((1.0, float("-inf"), -1.0)[: rows - 1]):
        h[row, ::2] = special
    h[-1, ::3], h[-1, 1::3] = 0.0, -0.0
    if d_sae > 4:
        h[0, 1], h[0, 3] = float("nan"), -float("nan")
    return h


WIDTHS = [(4, 300, 7), (3, 64, 64), (4, 1000, 1), (3, 1, 1)]  # (rows, d_sae, k)
WIDE = [(2, 9000, 32), (2, 8192, 2000), (2, 32768, 65), (2, 75000, 3)]  # several blocks and chunks, whatever the type


@pytest.mark.parametrize(
    ("rows", "d_sae", "k", "dtype"),
    [(*width, dtype) for width in WIDTHS for dtype in (torch.float32, torch.bfloat16, torch.float16)]
    + [(*width, torch.float32) for width in WIDE]
    + [(*WIDE[0], torch.bfloat16)],
)
def test_the_largest_of_each_row(rows, d_sae, k, dtype):
    h = awkward(rows, d_sae, dtype)
    assert gpu_topk.takes(h, k)
    values, indices = gpu_topk.topk(h, k)
    assert_close(values, h.flatten()[indices], rtol=0, atol=0, equal_nan=True)
    assert_close(values.view(rows, k).sort(1).values, h.topk(k).values.sort(1).values, rtol=0, atol=0, equal_nan=True)
    assert bool((indices.diff() > 0).all()), "each once, in order"
    assert torch.equal(indices.view(rows, k) // d_sae, torch.arange(rows)[:, None].expand(-1, k))


def test_of_equal_values_the_first_are_taken():
    _, indices = gpu_topk.topk(torch.tensor([[2.0, 1, 2, 1, 1, 0], [0.0, 0, 0, 0, 0, 0]]), 4)
    assert indices.tolist() == [0, 1, 2, 3, 6, 7, 8, 9]


def test_what_registers_cannot_hold_is_left_to_torch():
    takes = gpu_topk.takes
    assert not takes(torch.empty(1, 40000 + 9, device="meta"), 8)  # a prime
    assert not takes(torch.empty(1, 65536, device="meta"), 40000)
    assert not takes(torch.empty(1, 64, device="meta", dtype=torch.float64), 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("width", [1, 100, 128, 300])
def test_sums_and_products_are_those_of_matrices(width, dtype):
    """Rows of no pairs, of fewer than are read at once, of exactly so many, of more."""
    n, lengths = 80, torch.tensor([0, 3, 16, 17, 70, 1, 0])
    indices = torch.cat([torch.randperm(n)[:length] for length in lengths.tolist()])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    table, left = torch.randn(n, width).to(dtype), torch.randn(len(lengths), width).to(dtype)
    weights = torch.randn(len(indices), dtype=torch.float64)
    rows = torch.repeat_interleave(lengths)
    f = torch.zeros(len(lengths), n, dtype=torch.float64)
    f[rows, indices] = weights
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for many in (False, True):
        sums = gpu_sums.weighted_sum(table, indices, offsets, weights, many)
        assert_close(sums.double(), f @ table.double(), rtol=tolerance, atol=tolerance)
    products = gpu_sums.products(left, table, indices, offsets)
    assert_close(products.double(), (left.double() @ table.double().T)[rows, indices], rtol=tolerance, atol=tolerance)


def test_nothing_is_computed_of_nothing():
    none, offsets = torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    table = torch.ones(3, 4)
    assert gpu_sums.weighted_sum(table, none, offsets, torch.zeros(0)).shape == (0, 4)
    assert gpu_sums.products(table[:0], table, none, offsets).shape == (0,)
    assert gpu_topk.topk(table[:0], 2)[0].shape == (0,)


@pytest.mark.parametrize(
    ("name", "objective", "dtype"),
    [(name, "matryoshka", torch.float32) for name in ("topk-1", "topk-3", "topk-all", "batchtopk-3")]
    + [("topk-3", "plain", torch.float64)],
)
def test_gradients_through_the_kernels(taken, name, objective, dtype):
    dense.test_gradients_are_those_of_dense_autograd(name, objective, dtype, "sparse")


@pytest.mark.parametrize("n_dead", [3, 20])
def test_gradients_of_auxk_through_the_kernels(taken, n_dead):
    dense.test_gradients_of_auxk_are_those_of_dense_autograd(n_dead, torch.float32, "sparse")


def test_under_autocast_the_table_is_read_in_its_precision(taken):
    """Sums are float32 whatever is read, and gradients come in the precision of the weights."""
    w_dec = torch.randn(40, 24, requires_grad=True)
    codes = sparse.topk_select(torch.randn(9, 40), 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse.decode_sparse(codes, w_dec, "sparse")
    assert out.dtype == torch.float32
    assert_close(out, codes.dense(40) @ w_dec.bfloat16().float())
    (out.square().sum() / 2).backward()
    assert w_dec.grad is not None and w_dec.grad.dtype == torch.float32
    assert_close(w_dec.grad, codes.dense(40).T @ out.bfloat16().float())


def test_selection_goes_through_the_kernel(taken):
    h = torch.randn(6, 500)
    found, expected = sparse.topk_select(h, 5), topk_reference(h, 5)
    assert torch.equal(found.latents, expected.indices % 500)


def test_the_check_passes_on_what_is_right_and_names_what_is_wrong(monkeypatch):
    cpu = torch.device("cpu")
    assert gpu.check(cpu, widths=(300, 1100)) is None
    right = gpu_sums.products
    monkeypatch.setattr(gpu_sums, "products", lambda *a: right(*a) * 1.01)
    assert gpu.check(cpu, widths=(300, 1100)) == "products of torch.float32"
    monkeypatch.setattr(gpu_topk, "topk", lambda h, k: topk_reference(-h, k))
    assert gpu.check(cpu, widths=(300, 1100)) == "largest of 300 in torch.float32"
