"""Members of a bank: independent of each other, normalised once, counted in tokens."""

import copy
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import mostly_slow
from nn.small_bank import OBJECTIVES, SPARSIFIERS, X, Z, build, spec, train

from saev.nn import (
    AuxK,
    BatchTopK,
    Gated,
    JumpReLU,
    Member,
    Plain,
    ReLU,
    SAEBank,
    TopK,
)  # fmt: skip
from saev.nn.schedules import learning_rate_factor, sparsity_factor


@pytest.mark.parametrize("objective", mostly_slow(OBJECTIVES))
@pytest.mark.parametrize("sae", SPARSIFIERS)
def test_every_architecture_learns(sae, objective):
    member = build(sae=sae, objective=objective)
    history = train(member)
    assert float(history[-1].z_mse) < 0.8 * float(history[0].z_mse)
    torch.testing.assert_close(member.sae.atoms.norm(dim=1), torch.ones(48))
    if "topk" in sae:
        assert float(history[-1].l0) <= 3 + 1e-6


def test_the_sparse_path_has_the_dense_gradients():
    """The selected pairs alone carry the gradient; autograd through dense codes must agree."""
    member = build(sae="topk")
    member(Z).loss.backward()
    fast = {name: p.grad.clone() for name, p in member.sae.named_parameters()}
    member.sae.zero_grad()
    sae = member.sae
    h = sae.pre_activations(Z)
    (Z - sae.sparsifier(h) @ sae.w_dec - sae.b_dec).square().mean().backward()
    for name, p in sae.named_parameters():
        torch.testing.assert_close(fast[name], p.grad, rtol=1e-4, atol=1e-6)


def test_tokens_since_fired_counts_tokens():
    """Guards against dead latents counted in batches (a known fault of a peer)."""
    member = build(dead_tokens=1000)
    with torch.no_grad():
        member.sae.b_enc[7] = -1e9
    member(Z[:250])
    assert int(member.tokens_since_fired[7]) == 250 and not member.dead.any()
    for _ in range(3):
        member(Z[:250])
    assert member.dead[7] and int(member.tokens_since_fired[7]) == 1000
    with torch.no_grad():
        member.sae.b_enc[7] = 1e3
    member(Z[:250])
    assert int(member.tokens_since_fired[7]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("sae", ["topk", "batchtopk"])
def test_dead_latents_come_back_through_auxk_alone(sae):
    """Guards against a revival that does nothing, as a resampling that never takes place (a known fault of a peer)."""
    left = {}
    for coefficient in (0.0, 1 / 32):
        auxk = AuxK(coefficient=coefficient, dead_tokens=600)
        member = build(Member(SPARSIFIERS[sae](), "a", Plain(), auxk, 1e-2, d_sae=48))
        with torch.no_grad():
            member.sae.w_enc[:, :24] *= 0.01  # positive now and then, never among the largest
        train(member, 2)
        assert int(member.dead.sum()) >= 20
        train(member, 120)
        left[coefficient] = int(member.dead.sum())
    assert left[1 / 32] < left[0.0] / 2


def test_parallel_gradient_is_removed_and_norm_clipped():
    member = build()
    member(Z * 100).loss.backward()
    norm = member.condition_gradients(1.0)
    grad = member.sae.w_dec.grad
    assert float((grad * member.sae.w_dec.detach()).sum(1).abs().max()) < 1e-6
    total = torch.stack([p.grad.norm() for p in member.sae.parameters()]).norm()
    assert float(norm) > 1 and float(total) == pytest.approx(1, rel=1e-3)


def test_the_sparsity_factor_scales_the_penalty_alone():
    member = build(sae="relu")
    with torch.no_grad():
        full, half = member(Z, 1.0), member(Z, 0.5)
    assert float(half.sparsity) == pytest.approx(0.5 * float(full.sparsity), rel=1e-6)
    assert float(half.reconstruction) == pytest.approx(float(full.reconstruction), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("sae", [lambda t: JumpReLU(l0_target=t), lambda t: ReLU(1e-3, t), lambda t: Gated(1e-3, t)])
def test_the_target_l0_is_reached(sae):
    for target in (3.0, 6.0):
        member = build(Member(sae(target), "a", Plain(), AuxK(), 3e-3, d_sae=48))
        history = train(member, 400)
        found = float(torch.stack([losses.l0 for losses in history[-50:]]).mean())
        assert found == pytest.approx(target, rel=0.15)


def test_the_coefficient_waits_for_the_warm_up():
    member = build(Member(ReLU(1e-3, l0_target=2), "a", Plain(), AuxK(), 1e-3, d_sae=48))
    member.finish_step(torch.tensor(20.0), sparsity_factor=0.5)
    assert float(member.sae.sparsifier.coefficient) == pytest.approx(1e-3)
    member.finish_step(torch.tensor(20.0), sparsity_factor=1.0)
    assert float(member.sae.sparsifier.coefficient) == pytest.approx(1e-3 * np.exp(0.03), rel=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sae", SPARSIFIERS)
def test_a_resumed_member_trains_as_if_never_stopped(sae, objective):
    """Guards against a theta, coefficient, silence or step count that the checkpoint lacks (known faults of peers)."""
    one, other = (build(sae=sae, objective=objective, dead_tokens=900) for _ in range(2))
    train(one, 5)
    other.load_state_dict(one.state_dict())
    assert other.step == 5
    again = [train(member, 5) for member in (one, other)]
    assert [float(a.loss.detach()) for a in again[0]] == [float(b.loss.detach()) for b in again[1]]
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b) if torch.is_tensor(a) else a == b


@pytest.mark.parametrize("d_sae", [48, 32])
@pytest.mark.parametrize("sae", SPARSIFIERS)
def test_settings_build_independent_members(sae, d_sae):
    """Building and training another member from the same settings leaves the first as it is (JumpReLU's L0 once fell)."""
    settings = spec(sae=sae)
    first = build(settings)
    train(first, 2)
    before, codes = copy.deepcopy(first.state_dict()), first.sae.encode(X)
    second = build(dataclasses.replace(settings, d_sae=d_sae))
    train(second, 2)
    assert second.sae.sparsifier is not first.sae.sparsifier and second.sae.n_latents == d_sae
    assert torch.equal(first.sae.encode(X), codes)
    for name, value in first.state_dict().items():
        assert torch.equal(value, before[name]) if torch.is_tensor(value) else value == before[name]


def test_a_member_is_named_after_its_sparsifier():
    assert Member(BatchTopK(k=32)).name == "batchtopk,k=32"
    assert Member(TopK(2, threshold=True)).name == "topk,k=2,threshold=true"
    assert Member(JumpReLU(l0_target=16), name="mine").name == "mine"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr=0.0: must be above 0"),
        ({"d_sae": 0}, "d_sae=0: must be at least 1"),
        ({"expansion": 0.0}, "expansion=0.0: must be above 0"),
        ({"init": "zeros"}, "init=zeros: choose data, tokens, random, kmeans or archetypal"),
        ({"b_dec": "mode"}, "b_dec=mode: choose median or mean"),
    ],
)
def test_settings_out_of_bounds_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Member(TopK(3), **settings)


def test_settings_load_no_torch():
    """The command line derives its schema from them."""
    script = (
        "import sys; from saev.nn import AuxK, Archetypal, Free, Gated, Matryoshka, Member, TopK; Member(TopK(3)); "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_names_are_unique():
    with pytest.raises(ValueError, match="different names"):
        SAEBank([build(name="a"), build(name="a")])


def test_width_follows_the_expansion():
    member = build(Member(TopK(3), "a", Plain(), AuxK(), 1e-3, expansion=2.5))
    assert member.sae.n_latents == 30


def test_schedules():
    factors = [learning_rate_factor(s, 100, 10, 0.2) for s in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9:81] == [1.0] * 72
    assert factors[90] == pytest.approx(0.5) and factors[100] == 0
    assert factors[:10] == sorted(factors[:10])
    assert factors == [learning_rate_factor(s, 100, 0.1, 0.2) for s in range(101)]  # a fraction, or a number of steps
    assert learning_rate_factor(0, 10, 0, 0.0) == 1
    assert [sparsity_factor(s, 100, 0.0) for s in (0, 50)] == [1, 1]
