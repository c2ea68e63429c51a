"""AuxK against its formula and its known faults, by pairs and by matrices; and what is known of the dead without waiting."""

import copy

import numpy as np
import pytest
import torch
from nn.test_bank import ACTIVATIONS, NORMALISER, spec
from nn.test_bank import Z as ROWS

from saev.nn import MemberSpec, SparseAutoencoder, TopK, auxk
from saev.nn.auxk import AuxK, MaybeDead
from saev.nn.objectives import Plain

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


def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(auxk, "by_numpy", lambda h: False)
    monkeypatch.setattr(auxk, "horizon", lambda device, dead_tokens: dead_tokens // 4)


@pytest.fixture(params=["pairs", "matrices"])
def way(request, monkeypatch):
    if request.param == "matrices":
        as_on_a_gpu(monkeypatch)
    return request.param


def maybe(dead):
    """The dead latents, and one more where there is one."""
    return (dead | (dead.cumsum(0) == 2)).nonzero().squeeze(1)


@pytest.mark.parametrize("k", [2, 5, 6, 9])
def test_auxk_is_its_formula(way, k):
    sae, dead = make_sae(), torch.arange(16) % 3 == 0
    h = sae.pre_activations(Z).detach()
    residual = Z - h.relu() @ W
    loss = AuxK(coefficient=0.5, k=k)(sae, Z, h, residual, dead, maybe(dead))
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
    h, f = sae.training_codes(Z)
    residual = Plain()(Z, f, sae.w_dec, sae.b_dec)[1]
    AuxK(k=2)(sae, Z, h, residual, dead, maybe(dead)).backward()
    assert sae.encoder.grad[:3].any() and not sae.encoder.grad[3:].any()
    assert sae.b_enc.grad[:3].any() and not sae.b_enc.grad[3:].any()
    assert sae.w_dec.grad[:3].any() and not sae.w_dec.grad[3:].any()


def test_auxk_gradient_by_finite_differences(way):
    sae, dead = make_sae(), torch.arange(16) < 3
    residual = (Z - sae.pre_activations(Z).relu() @ W).detach()

    def loss(w_enc):
        with torch.no_grad():
            sae.w_enc.copy_(w_enc)
        return AuxK(k=2)(sae, Z, sae.pre_activations(Z).detach(), residual, dead, maybe(dead))

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
    assert float(AuxK()(sae, Z, h, Z, ~EVERY, maybe(~EVERY))) == 0
    assert float(AuxK(coefficient=0.0)(sae, Z, h, Z, EVERY, maybe(EVERY))) == 0


@pytest.mark.parametrize("sae", ACTIVATIONS)
def test_on_a_gpu_it_is_the_same_and_nobody_waits_for_long(monkeypatch, sae):
    """Members in training whose latents die and come back: losses by either way, and how often the device is asked."""
    here = spec(sae=sae, dead_tokens=1200).build(NORMALISER, ROWS)
    there, asked = copy.deepcopy(here), []
    aux, optimisers = [], [torch.optim.Adam(m.sae.parameters(), lr=1e-2) for m in (here, there)]
    look = MaybeDead.look
    for step in range(30):
        z = ROWS[step % 6 :: 6]  # 100 tokens
        for member, optimiser in zip((here, there), optimisers, strict=True):
            with monkeypatch.context() as patch:
                if member is there:
                    as_on_a_gpu(patch)
                    patch.setattr(MaybeDead, "look", lambda self, silent: (asked.append(1), look(self, silent)))
                with torch.no_grad():
                    member.sae.b_enc[:4] -= 2 * (step == 3)
                losses = member(z)
            optimiser.zero_grad()
            losses.loss.backward()
            optimiser.step()
            member.finish_step(losses.l0)
            aux.append(float(losses.aux.detach()))
    torch.testing.assert_close(aux[::2], aux[1::2], rtol=1e-6, atol=1e-9)
    assert len(asked) == 8, "every 300 tokens and one batch"
    if "topk" in sae:
        assert any(aux), "something died"


def test_latents_that_come_close_are_known_before_they_are_dead(monkeypatch):
    as_on_a_gpu(monkeypatch)
    silent, known = torch.tensor([0, 74, 75, 120]), MaybeDead(100)
    assert known.after(silent, 20).tolist() == [2, 3], "75 and 25 are dead"
    assert known.after(silent + 20, 5).tolist() == [2, 3]
    assert known.after(silent + 25, 10).tolist() == [2, 3], "exactly as far ahead as was asked"
    assert known.after(silent + 35, 10).tolist() == [1, 2, 3]


def test_on_a_cpu_it_is_the_dead_alone():
    silent, known = torch.tensor([0, 99, 100]), MaybeDead(100)
    assert known.after(silent, 1).tolist() == [2] and known.after(silent + 1, 1).tolist() == [1, 2]


def test_a_checkpoint_keeps_what_is_known(monkeypatch):
    """Whom a step looks at decides how its sums are rounded: a resumed run must look at the same."""
    as_on_a_gpu(monkeypatch)
    member, again = (spec(dead_tokens=4000).build(NORMALISER, ROWS) for _ in range(2))
    member.silent[:3] = 3500
    member(ROWS)
    again.load_state_dict(member.state_dict())
    monkeypatch.setattr(MaybeDead, "look", lambda self, silent: pytest.fail("asked again"))
    assert again.maybe_dead.latents.tolist() == [0, 1, 2] and again.maybe_dead.left == 400
    again(ROWS[:400])


def test_without_revival_nobody_is_asked(monkeypatch):
    monkeypatch.setattr(MaybeDead, "look", lambda self, silent: pytest.fail("asked"))
    off = AuxK(coefficient=0.0, dead_tokens=3)
    member = MemberSpec("a", TopK(3), Plain(), off, 1e-3, d_sae=48).build(NORMALISER, ROWS)
    member(ROWS)
    assert float(member(ROWS).aux.detach()) == 0
