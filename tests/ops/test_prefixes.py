"""Errors of nested prefixes, by decoding each prefix of the matrix of codes by itself."""

import pytest
import torch

from saev.ops.prefixes import dense_prefix_errors, prefix_errors
from saev.ops.sparse import SparseCodes, batchtopk_select, topk_select

ENDS = [[40], [5, 10, 40], [1, 2, 3, 40], [39, 40]]


def _world(dtype=torch.float64, rows=23):
    g = torch.Generator().manual_seed(0)
    h, target, w_dec = (torch.randn(shape, generator=g, dtype=dtype) for shape in ((rows, 40), (rows, 7), (40, 7)))
    return h, target.requires_grad_(), w_dec.requires_grad_()


def _reference(f, w_dec, target, ends):
    residuals = torch.stack([target - f[:, :end] @ w_dec[:end] for end in ends])
    return residuals.square().mean(), residuals[-1]


def _same(found, expected, inputs, tolerance):
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=0)
    torch.testing.assert_close(found[1], expected[1].detach(), rtol=tolerance, atol=tolerance)
    assert not found[1].requires_grad
    pairs = [torch.autograd.grad(3 * loss, inputs) for loss in (found[0], expected[0])]
    for a, b in zip(*pairs, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("select", [topk_select, batchtopk_select])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_errors_and_gradients_are_those_of_the_prefixes(path, ends, select, dtype, tolerance):
    h, target, w_dec = _world(dtype)
    codes = select(h, 6)
    codes = codes._replace(values=codes.values.clone().requires_grad_())
    expected = _reference(codes.dense(40), w_dec, target, ends)
    found = prefix_errors(codes, w_dec, target, ends, path)
    _same(found, expected, [codes.values, w_dec, target], tolerance)


@pytest.mark.parametrize("ends", ENDS)
def test_errors_of_a_matrix_of_codes(ends):
    h, target, w_dec = _world()
    f = h.relu().requires_grad_()
    _same(dense_prefix_errors(f, w_dec, target, ends), _reference(f, w_dec, target, ends), [f, w_dec, target], 1e-10)


def test_latents_in_any_order_and_rows_of_any_length():
    _, target, w_dec = _world(rows=4)
    offsets, latents = torch.tensor([0, 2, 2, 5, 6]), torch.tensor([34, 0, 11, 4, 3, 4])
    values = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.25, -1.5], dtype=torch.float64, requires_grad=True)
    codes = SparseCodes(offsets, latents, values)
    expected = _reference(codes.dense(40), w_dec, target, [4, 12, 40])
    _same(prefix_errors(codes, w_dec, target, [4, 12, 40], "sparse"), expected, [values, w_dec, target], 1e-10)


def test_a_second_backward_pass_is_refused():
    h, target, w_dec = _world()
    loss, _ = prefix_errors(topk_select(h, 6), w_dec, target, [5, 40], "sparse")
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()
