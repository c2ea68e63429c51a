"""The sparse maps against dense autograd: values, every gradient, ragged and empty rows."""

import pytest
import torch

from benchmarks.ops_reference import batchtopk_codes
from saev.ops.paths import _log_once, using
from saev.ops.sparse import (
    SparseCodes,
    batchtopk_select,
    decode_sparse,
    topk_among,
    topk_select,
    with_encoder_gradient,
)
from saev.ops.topk import topk_codes

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SELECT = {"topk": (topk_select, topk_codes), "batchtopk": (batchtopk_select, batchtopk_codes)}


def _weights(d_model, d_sae, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = {"w_enc": (d_model, d_sae), "b_enc": (d_sae,), "w_dec": (d_sae, d_model), "b_dec": (d_model,)}
    drawn = {name: torch.randn(shape, generator=g, dtype=dtype) / 4 for name, shape in shapes.items()}
    return {name: value.requires_grad_() for name, value in drawn.items()}


def _inputs(batch, d_model, dtype, seed=1):
    z = torch.randn(batch, d_model, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return z.requires_grad_()


def _pre_activations(z, w):
    h = (z - w["b_dec"]) @ w["w_enc"] + w["b_enc"]
    return torch.cat([h[:1] - 100, h[1:]])  # the first row has nothing positive


def _ragged(dtype=torch.float64):
    """Rows of 2, 0, 3 and 1 pairs, a latent used three times, two latents never."""
    offsets, latents = torch.tensor([0, 2, 2, 5, 6]), torch.tensor([4, 0, 1, 4, 3, 4])
    return SparseCodes(offsets, latents, torch.tensor([1.0, -2.0, 0.5, 3.0, 0.25, -1.5], dtype=dtype))


def _gradients(loss, tensors):
    return torch.autograd.grad(loss, tensors)


def test_pairs_and_matrix_are_the_same_codes():
    codes = _ragged()
    expected = torch.zeros(4, 6, dtype=torch.float64)
    for row, latent, value in [(0, 4, 1.0), (0, 0, -2.0), (2, 1, 0.5), (2, 4, 3.0), (2, 3, 0.25), (3, 4, -1.5)]:
        expected[row, latent] = value
    assert torch.equal(codes.dense(6), expected)
    assert codes.rows().tolist() == [0, 0, 2, 2, 2, 3]
    assert codes.firings(6).tolist() == [1, 1, 0, 1, 3, 0]


@pytest.mark.parametrize("kind", SELECT)
@pytest.mark.parametrize(("batch", "d_sae", "k"), [(1, 8, 1), (37, 50, 7), (64, 96, 96), (300, 256, 2)])
def test_selection_is_that_of_the_dense_codes(kind, batch, d_sae, k):
    h = torch.randn(batch, d_sae, generator=torch.Generator().manual_seed(0)).requires_grad_()
    select, dense = SELECT[kind]
    codes = select(h, k)
    assert torch.equal(codes.dense(d_sae), dense(h, k)) and not codes.values.requires_grad
    assert len(codes.latents) <= batch * k and codes.offsets[-1] == len(codes.latents)


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("kind", SELECT)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("batch", "d_model", "d_sae", "k"), [(16, 8, 64, 1), (33, 12, 50, 4), (64, 6, 40, 40)])
def test_a_whole_step_has_the_gradients_of_dense_autograd(path, kind, dtype, batch, d_model, d_sae, k):
    select, dense = SELECT[kind]
    z, w = _inputs(batch, d_model, dtype), _weights(d_model, d_sae, dtype)
    leaves = [z, *w.values()]
    f = dense(_pre_activations(z, w), k)
    expected = (z - f @ w["w_dec"] - w["b_dec"]).square().mean() + 0.1 * f.sum()

    codes = select(_pre_activations(z, w), k)
    codes = with_encoder_gradient(codes, z, w["w_enc"], w["b_enc"], w["b_dec"], path)
    z_hat = decode_sparse(codes, w["w_dec"], path) + w["b_dec"]
    loss = (z - z_hat).square().mean() + 0.1 * codes.values.sum()

    torch.testing.assert_close(loss, expected, rtol=TOLERANCE[dtype], atol=0)
    for name, found, wanted in zip(("z", *w), _gradients(loss, leaves), _gradients(expected, leaves), strict=True):
        error = (found - wanted).abs().max() / wanted.abs().max()
        assert error < TOLERANCE[dtype], name


@pytest.mark.parametrize("path", ["sparse", "dense"])
def test_decoding_ragged_rows(path):
    codes, w_dec = _ragged(), torch.randn(6, 3, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(decode_sparse(codes, w_dec, path), codes.dense(6) @ w_dec)
    values = codes.values.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v, w: decode_sparse(codes._replace(values=v), w, path), (values, w_dec))


def test_decoding_nothing():
    codes = SparseCodes(torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    w_dec = torch.randn(5, 2, requires_grad=True)
    for path in ("sparse", "dense"):
        z_hat = decode_sparse(codes, w_dec, path)
        assert torch.equal(z_hat, torch.zeros(3, 2)) and not _gradients(z_hat.sum(), [w_dec])[0].any()


@pytest.mark.parametrize("path", ["sparse", "dense"])
def test_encoder_gradient_by_finite_differences(path):
    z, w = _inputs(9, 4, torch.float64), _weights(4, 12, torch.float64)

    def encode(z, w_enc, b_enc, b_dec):
        h = (z - b_dec) @ w_enc + b_enc
        codes = with_encoder_gradient(topk_select(h, 3), z, w_enc, b_enc, b_dec, path)
        return codes.dense(12)  # compare matrices, not pairs: topk does not order them

    assert torch.autograd.gradcheck(encode, (z, w["w_enc"], w["b_enc"], w["b_dec"]))


@pytest.mark.parametrize("n", [1, 3, 20, 50])
def test_selection_among_some_latents(n):
    h = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    some = torch.randperm(50, generator=torch.Generator().manual_seed(1)) < n
    latents = some.nonzero().squeeze(1)
    found = topk_among(h[:, latents], 4, latents)
    assert torch.equal(found.dense(50), topk_codes(torch.where(some, h, 0.0), 4))
    assert len(found.latents) <= 30 * min(n, 4)


def test_encoder_gradient_of_a_masked_selection_stays_among_the_unmasked():
    """AuxK: fewer dead latents than k, so that the selection is padded with others, which must get no gradient."""
    z, w = _inputs(20, 6, torch.float64), _weights(6, 30, torch.float64)
    dead = torch.arange(30) >= 27
    h = (z - w["b_dec"]) @ w["w_enc"] + w["b_enc"]
    expected = (topk_codes(torch.where(dead, h, 0.0), 8) @ w["w_dec"]).square().sum()
    codes = topk_select(torch.where(dead, h, 0.0), 8)
    codes = with_encoder_gradient(codes, z, w["w_enc"], w["b_enc"], w["b_dec"], path="sparse")
    loss = decode_sparse(codes, w["w_dec"], path="sparse").square().sum()
    leaves = [w["w_enc"], w["b_enc"], w["w_dec"], w["b_dec"], z]
    found = _gradients(loss, leaves)
    for one, other in zip(found, _gradients(expected, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert found[0][:, dead].any() and not found[0][:, ~dead].any()


def test_only_the_required_gradients_are_computed():
    z, w = _inputs(20, 6, torch.float32).detach(), _weights(6, 30, torch.float32)
    w["b_dec"].requires_grad_(False)
    codes = topk_select((z - w["b_dec"]) @ w["w_enc"] + w["b_enc"], 2)
    codes = with_encoder_gradient(codes, z, w["w_enc"], w["b_enc"], w["b_dec"], path="sparse")
    codes.values.sum().backward()
    assert w["w_enc"].grad is not None and w["b_enc"].grad is not None
    assert z.grad is None and w["b_dec"].grad is None


def test_both_paths_take_half_precision_codes():
    codes, w_dec = _ragged(torch.float32), torch.randn(6, 3)
    half = codes._replace(values=codes.values.bfloat16())
    for path in ("sparse", "dense"):
        torch.testing.assert_close(decode_sparse(half, w_dec, path), codes.dense(6) @ w_dec)


@pytest.mark.parametrize("path", ["sparse", "dense"])
def test_gradients_under_autocast_are_those_of_dense_autocast(path):
    z, w = _inputs(64, 16, torch.float32).detach(), _weights(16, 80, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        h = z @ w["w_enc"] + w["b_enc"]
        expected = (topk_codes(h, 5) @ w["w_dec"]).float().square().sum()
        codes = with_encoder_gradient(topk_select(h, 5), z, w["w_enc"], w["b_enc"], torch.zeros(16), path)
        loss = decode_sparse(codes, w["w_dec"], path).float().square().sum()
    leaves = [w["w_enc"], w["b_enc"], w["w_dec"]]
    for found, wanted in zip(_gradients(loss, leaves), _gradients(expected, leaves), strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 0.02 * wanted.norm()  # bfloat16 has 3 digits


def test_the_rule_prefers_sparse_below_an_eighth_on_a_cpu():
    h = torch.randn(10, 64)
    assert topk_select(h, 8).prefer_sparse(64) and not topk_select(h, 9).prefer_sparse(64)
    codes = topk_select(h, 4)
    on_meta = SparseCodes(*(tensor.to("meta") for tensor in codes))
    assert not on_meta.prefer_sparse(64)
    with using("dense"):
        assert not codes.prefer_sparse(64) and codes.prefer_sparse(64, "sparse")
    assert codes.prefer_sparse(64)


def test_the_path_taken_is_logged_once(caplog):
    _log_once.cache_clear()
    codes, w_dec = _ragged(), torch.randn(6, 3, dtype=torch.float64)
    with caplog.at_level("INFO", logger="saev.ops.paths"):
        for _ in range(3):
            decode_sparse(codes, w_dec)
    assert [record.getMessage() for record in caplog.records] == ["codes on cpu: dense products (path=auto)"]
