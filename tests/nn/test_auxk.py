"""AuxK against its formula and its known faults, by pairs and by matrices."""

import numpy as np
import pytest
import torch

from saev.nn import AuxK, SparseAutoencoder, TopK, auxk
from saev.nn.auxk import auxk_loss
from saev.nn.decoding import decode

G = torch.Generator().manual_seed(0)
Z = torch.randn(10, 6, generator=G, dtype=torch.float64)
W = torch.nn.functional.normalize(torch.randn(16, 6, generator=G, dtype=torch.float64), dim=1)
EVERY = torch.ones(16, dtype=torch.bool)


def make_sae() -> SparseAutoencoder:
    sae = SparseAutoencoder(6, 16, TopK(2)).double()
    with torch.no_grad():
        sae.w_dec.copy_(W)
        sae.w_enc.copy_(torch.randn(6, 16, generator=G, dtype=torch.float64))
        sae.b_enc.normal_(0, 0.1, generator=G)
        sae.b_dec.normal_(0, 1, generator=G)
    return sae


@pytest.fixture(params=["pairs", "matrices"])
def way(request, monkeypatch):
    if request.param == "matrices":
        monkeypatch.setattr(auxk, "by_numpy", lambda h: False)
    return request.param


def maybe(dead):
    """The dead latents, and one more where there is one."""
    return (dead | (dead.cumsum(0) == 2)).nonzero().squeeze(1)


@pytest.mark.parametrize("k", [2, 5, 6, 9])
def test_auxk_is_its_formula(way, k):
    sae, dead = make_sae(), torch.arange(16) % 3 == 0
    h = sae.pre_activations(Z).detach()
    residual = Z - h.relu() @ W
    loss = auxk_loss(AuxK(coefficient=0.5, k=k), sae, Z, h, residual, dead, maybe(dead))
    e, h = residual.numpy(), np.where(dead.numpy(), np.maximum(h.numpy(), 0), 0)
    f = np.zeros_like(h)
    for row, out in zip(h, f, strict=True):
        best = np.argsort(row)[-k:]
        out[best] = row[best]
    expected = 0.5 * ((f @ W.numpy() - e) ** 2).sum() / ((e - e.mean(0)) ** 2).sum()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-10)


def test_auxk_reaches_the_dead_latents_encoder_alone(way):
    """Guards against an auxiliary loss whose gradient stops at the codes (a known fault of a peer)."""
    sae, dead = make_sae(), torch.arange(16) < 3
    h, _, f = sae.training_codes(Z)
    residual = Z - decode(f, sae.w_dec) - sae.b_dec
    auxk_loss(AuxK(k=2), sae, Z, h, residual, dead, maybe(dead)).backward()
    assert sae.encoder.grad[:3].any() and not sae.encoder.grad[3:].any()
    assert sae.b_enc.grad[:3].any() and not sae.b_enc.grad[3:].any()
    assert sae.w_dec.grad[:3].any() and not sae.w_dec.grad[3:].any()


def test_auxk_gradient_by_finite_differences(way):
    sae, dead = make_sae(), torch.arange(16) < 3
    residual = (Z - sae.pre_activations(Z).relu() @ W).detach()

    def loss(w_enc):
        with torch.no_grad():
            sae.w_enc.copy_(w_enc)
        return auxk_loss(AuxK(k=2), sae, Z, sae.pre_activations(Z).detach(), residual, dead, maybe(dead))

    w_enc = sae.w_enc.detach().clone()
    (gradient,) = torch.autograd.grad(loss(w_enc), sae.encoder)
    gradient = gradient.T
    for index in [(0, 0), (3, 1), (5, 2), (2, 9)]:
        step = torch.zeros_like(w_enc)
        step[index] = 1e-6
        slope = (loss(w_enc + step) - loss(w_enc - step)).detach() / 2e-6
        assert float(gradient[index]) == pytest.approx(float(slope), rel=1e-5, abs=1e-9)


def test_it_costs_nothing_when_nothing_is_dead_or_it_is_off():
    sae = make_sae()
    h = sae.pre_activations(Z).detach()
    assert float(auxk_loss(AuxK(), sae, Z, h, Z, ~EVERY, maybe(~EVERY))) == 0
    assert float(auxk_loss(AuxK(coefficient=0.0), sae, Z, h, Z, EVERY, maybe(EVERY))) == 0
