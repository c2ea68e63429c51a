"""Gated autoencoders against the paper's formulas written out in NumPy."""

import numpy as np
import pytest
import torch

from saev.nn import AuxK, Gated, SparseAutoencoder
from saev.nn.auxk import auxk_loss
from saev.nn.decoding import decode
from saev.nn.initialise import initialise
from saev.ops.paths import using
from saev.ops.sparse import SparseCodes

G = torch.Generator().manual_seed(0)
Z = torch.randn(50, 6, generator=G, dtype=torch.float64)


@pytest.fixture(autouse=True, params=["auto", "dense"])
def way(request):
    """By the few pairs whose gate is open, and by matrices."""
    with using(request.param):
        assert isinstance(make().training_codes(Z).at, SparseCodes) == (request.param == "auto")
        yield request.param


def matrix(codes):
    return codes.dense(16) if isinstance(codes, SparseCodes) else codes


def make():
    sae = SparseAutoencoder(6, 16, Gated(0.5)).double()
    initialise(sae, Z, "data", 0)
    with torch.no_grad():
        for p in (sae.sparsifier.r, sae.sparsifier.b_gate, sae.sparsifier.b_mag):
            p.add_(0.1 * torch.randn(16, generator=G, dtype=torch.float64))
    return sae


def test_codes_penalty_and_auxiliary_reconstruction():
    sae = make()
    p = {name: value.numpy() for name, value in sae.state_dict().items()}
    linear = (Z.numpy() - p["b_dec"]) @ p["w_enc"]
    pi = linear + p["sparsifier.b_gate"]
    f = np.where(pi > 0, np.maximum(np.exp(p["sparsifier.r"]) * linear + p["sparsifier.b_mag"], 0), 0)
    _, at, codes = sae.training_codes(Z)
    np.testing.assert_allclose(matrix(codes).detach().numpy(), f, rtol=1e-6, atol=1e-9)
    act, sparsity = sae.sparsifier, 0.5 * np.maximum(pi, 0).sum(1).mean()
    assert float(act.penalty(at, codes, sae.w_dec).detach()) == pytest.approx(sparsity, rel=1e-6)
    aux = ((Z.numpy() - np.maximum(pi, 0) @ p["w_dec"] - p["b_dec"]) ** 2).mean()
    assert float(act.auxiliary_loss(Z, at, sae.w_dec, sae.b_dec).detach()) == pytest.approx(aux, rel=1e-6)


def test_the_auxiliary_path_trains_the_gate_and_not_the_decoder():
    sae = make()
    at = sae.training_codes(Z).at
    sae.sparsifier.auxiliary_loss(Z, at, sae.w_dec, sae.b_dec).backward()
    assert sae.w_dec.grad is None and sae.sparsifier.b_gate.grad.any() and sae.encoder.grad.any()
    assert sae.sparsifier.r.grad is None and sae.sparsifier.b_mag.grad is None


def test_reconstruction_trains_magnitudes_and_not_the_gate():
    sae = make()
    f = sae.training_codes(Z).f
    (decode(f, sae.w_dec) - Z).square().mean().backward()
    assert sae.sparsifier.r.grad.any() and sae.sparsifier.b_mag.grad.any() and sae.sparsifier.b_gate.grad is None


def test_starts_as_a_relu_autoencoder_whose_bias_it_owns():
    sae = SparseAutoencoder(6, 16, Gated(0.5)).double()
    initialise(sae, Z, "data", 0)
    assert not sae.b_enc.requires_grad and not sae.b_enc.any()
    h, _, f = sae.training_codes(Z)
    torch.testing.assert_close(matrix(f), (h + sae.sparsifier.b_gate).relu())
    assert 0 < float((matrix(f) > 0).double().mean()) < 0.1


def test_auxk_revives_through_the_gate():
    sae = make()
    h = sae.training_codes(Z).h
    dead = torch.arange(16) < 4
    auxk_loss(AuxK(k=2), sae, Z, h, Z, dead, torch.arange(4)).backward()
    assert sae.sparsifier.b_gate.grad[:4].any() and not sae.sparsifier.b_gate.grad[4:].any()
    assert sae.encoder.grad[:4].any() and not sae.encoder.grad[4:].any()


def test_gradients_by_finite_differences():
    sae = make()
    inputs = [p.detach().clone().requires_grad_() for p in (sae.sparsifier.r, sae.sparsifier.b_mag, sae.w_dec)]

    def loss(r, b_mag, w_dec):
        h = sae.pre_activations(Z).detach()
        f = torch.where(h + sae.sparsifier.b_gate.detach() > 0, (r.exp() * h + b_mag).relu(), 0)
        return (Z - f @ w_dec).square().mean()

    sae.zero_grad()
    f = sae.training_codes(Z).f
    (Z - decode(f, sae.w_dec)).square().mean().backward()
    assert torch.autograd.gradcheck(loss, inputs)
    for ours, theirs in zip(
        (sae.sparsifier.r, sae.sparsifier.b_mag, sae.w_dec), torch.autograd.grad(loss(*inputs), inputs), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs)
