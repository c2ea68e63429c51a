"""Members of a bank: independent of each other, normalised once, counted in tokens."""

import numpy as np
import pytest
import torch

from saev.nn import AuxK, BatchTopK, Matryoshka, MemberSpec, Normaliser, Plain, ReLU, SAEBank, TopK
from saev.nn.schedules import learning_rate_factor, sparsity_factor
from saev.shards import Moments

ROWS = np.random.default_rng(0).normal(1, 2, size=(600, 12))
NORMALISER = Normaliser.fit(Moments.of(ROWS))
Z = NORMALISER(torch.from_numpy(ROWS))

ACTIVATIONS = {"relu": lambda: ReLU(1e-3), "topk": lambda: TopK(3), "batchtopk": lambda: BatchTopK(3)}
OBJECTIVES = {"plain": Plain, "matryoshka": Matryoshka}


def spec(name="a", sae="topk", objective="plain", **more):
    auxk = AuxK(dead_tokens=more.pop("dead_tokens", 10_000_000))
    return MemberSpec(name, ACTIVATIONS[sae](), OBJECTIVES[objective](), auxk, more.pop("lr", 1e-2), d_sae=48, **more)


def train(member, steps=60):
    optimiser = torch.optim.Adam(member.sae.parameters(), lr=member.lr)
    history = []
    for _ in range(steps):
        losses = member(Z)
        losses.loss.backward()
        member.condition_gradients(1.0)
        optimiser.step()
        optimiser.zero_grad()
        member.sae.normalise_atoms()
        history.append(losses)
    return history


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sae", ACTIVATIONS)
def test_every_architecture_learns(sae, objective):
    member = spec(sae=sae, objective=objective).build(NORMALISER, Z)
    history = train(member)
    assert float(history[-1].z_mse) < 0.8 * float(history[0].z_mse)
    torch.testing.assert_close(member.sae.w_dec.norm(dim=1), torch.ones(48))
    if sae != "relu":
        assert float(history[-1].l0) <= 3 + 1e-6


def test_the_sparse_path_has_the_dense_gradients():
    """The selected pairs alone carry the gradient; autograd through dense codes must agree."""
    member = spec(sae="topk").build(NORMALISER, Z)
    member(Z).loss.backward()
    fast = {name: p.grad.clone() for name, p in member.sae.named_parameters()}
    member.sae.zero_grad()
    sae = member.sae
    h = sae.pre_activations(Z)
    loss, _ = Plain()(Z, sae.activation(h), sae.w_dec, sae.b_dec)
    loss.backward()
    for name, p in sae.named_parameters():
        torch.testing.assert_close(fast[name], p.grad, rtol=1e-4, atol=1e-6)


def test_silence_is_counted_in_tokens():
    """Guards against dead latents counted in batches (a known fault of a peer)."""
    member = spec(dead_tokens=1000).build(NORMALISER, Z)
    with torch.no_grad():
        member.sae.b_enc[7] = -1e9
    member(Z[:250])
    assert int(member.silent[7]) == 250 and not member.dead.any()
    for _ in range(3):
        member(Z[:250])
    assert member.dead[7] and int(member.silent[7]) == 1000
    with torch.no_grad():
        member.sae.b_enc[7] = 1e3
    member(Z[:250])
    assert int(member.silent[7]) == 0


@pytest.mark.parametrize("sae", ["topk", "batchtopk"])
def test_dead_latents_come_back_through_auxk_alone(sae):
    left = {}
    for coefficient in (0.0, 1 / 32):
        auxk = AuxK(coefficient=coefficient, dead_tokens=600)
        member = MemberSpec("a", ACTIVATIONS[sae](), Plain(), auxk, 1e-2, d_sae=48).build(NORMALISER, Z)
        with torch.no_grad():
            member.sae.w_enc[:, :24] *= 0.01  # positive now and then, never among the largest
        train(member, 2)
        assert int(member.dead.sum()) >= 20
        train(member, 120)
        left[coefficient] = int(member.dead.sum())
    assert left[1 / 32] < left[0.0] / 2


def test_parallel_gradient_is_removed_and_norm_clipped():
    member = spec().build(NORMALISER, Z)
    member(Z * 100).loss.backward()
    norm = member.condition_gradients(1.0)
    grad = member.sae.w_dec.grad
    assert float((grad * member.sae.w_dec.detach()).sum(1).abs().max()) < 1e-6
    total = torch.stack([p.grad.norm() for p in member.sae.parameters()]).norm()
    assert float(norm) > 1 and float(total) == pytest.approx(1, rel=1e-3)


def test_the_sparsity_factor_scales_the_penalty_alone():
    member = spec(sae="relu").build(NORMALISER, Z)
    with torch.no_grad():
        full, half = member(Z, 1.0), member(Z, 0.5)
    assert float(half.sparsity) == pytest.approx(0.5 * float(full.sparsity), rel=1e-6)
    assert float(half.reconstruction) == pytest.approx(float(full.reconstruction), rel=1e-6)


def test_names_are_unique():
    with pytest.raises(ValueError, match="different names"):
        SAEBank([spec("a").build(NORMALISER, Z), spec("a").build(NORMALISER, Z)])


def test_width_follows_the_expansion():
    member = MemberSpec("a", TopK(3), Plain(), AuxK(), 1e-3, expansion=2.5).build(NORMALISER, Z)
    assert member.sae.n_latents == 30


def test_schedules():
    factors = [learning_rate_factor(s, 100, 10, 0.2) for s in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9:81] == [1.0] * 72
    assert factors[90] == pytest.approx(0.5) and factors[100] == 0
    assert factors[:10] == sorted(factors[:10])
    assert learning_rate_factor(0, 10, 0, 0.0) == 1
    assert [sparsity_factor(s, 100, 0.0) for s in (0, 50)] == [1, 1]
