"""Fused steps of a bank beside those of autograd, by Triton's interpreter: test_step.py runs this file with TRITON_INTERPRET=1."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from ops.fused.rounding import rounding

from saev.nn import (
    AuxK,
    BatchTopK,
    Gated,
    JumpReLU,
    Matryoshka,
    Member,
    Normaliser,
    Plain,
    RandomMatryoshka,
    ReLU,
    SAEBank,
    TopK,
)
from saev.ops import collective
from saev.ops.choice import faster_path
from saev.ops.fused.reference import error
from saev.training.bank import fusable
from saev.training.bank.module import BankModule

D_MODEL, D_SAE, ROWS = 32, 40, 16


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    take(monkeypatch)


def take(monkeypatch):
    """On a CPU."""
    rounding(monkeypatch)
    monkeypatch.setattr(fusable, "gpu", SimpleNamespace(kernels=lambda device: True))  # not for the autograd path
    monkeypatch.setattr("saev.ops.fused.check.usable", lambda *shape: True)


def data(n=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randn(48, D_MODEL, generator=generator)
    codes = torch.rand(n, 48, generator=generator) * (torch.rand(n, 48, generator=generator) < 0.1)
    z = codes @ atoms
    return z / z.std()


def bank(objective=None, k=4, dead_tokens=10**9, auxk=None, sae=None):
    """A bank of one member, and its optimiser as a run makes it."""
    spec = Member(sae or TopK(k), "a", objective or Plain(), auxk or AuxK(dead_tokens=dead_tokens), 3e-3, d_sae=D_SAE)
    member = spec.build(Normaliser(torch.zeros(D_MODEL), torch.ones(())), data(400, 1))
    module = BankModule(SAEBank([member]), lambda groups: torch.optim.Adam(groups, fused=True))
    return module, member, module.optimiser([{"params": list(member.sae.parameters()), "lr": member.lr}])


def trained(products, steps=2, prepare=lambda member: None, **settings):
    """(member, optimiser, the numbers of each step) after steps under bfloat16 autocast."""
    module, member, optimiser = bank(**settings)
    member.products = products
    prepare(member)
    history = []
    for step in range(steps):
        z = data(seed=2 + step)
        with torch.autocast("cpu", torch.bfloat16):
            numbers = module._member_step(member, z, optimiser, optimiser.param_groups[0])
            history.append({name: float(value) for name, value in numbers.items()})
    return member, optimiser, history


def assert_alike(settings, prepare=lambda member: None, steps=2, within=0.1, moments=0.05, numbers=0.03):
    (one, adam, mine), (other, expected_adam, expected) = (
        trained(products, steps, prepare, **settings) for products in ("fused", "auto")
    )
    start = bank(**settings)[1]
    prepare(start)
    for step, (a, b) in enumerate(zip(mine, expected, strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=numbers, abs=1e-6), (step, name)
    assert torch.equal(one.tokens_since_fired, other.tokens_since_fired) and one.step == other.step == steps
    for (name, p), q, begin in zip(
        one.sae.named_parameters(), other.sae.parameters(), start.sae.parameters(), strict=True
    ):
        # of Adam's step, whose sign decides where a gradient is small
        assert error(p - begin, q - begin) < within, name
        a, b = adam.state.get(p, {}), expected_adam.state.get(q, {})
        assert a.keys() == b.keys(), name
        if a:  # not b_enc of Gated
            assert a["step"] == b["step"] == steps
            assert error(a["exp_avg"], b["exp_avg"]) < moments, name
            assert error(a["exp_avg_sq"], b["exp_avg_sq"]) < 2 * moments, name
    return mine


@pytest.mark.parametrize("objective", [Plain(), Matryoshka(), RandomMatryoshka(n_prefixes=3)])
def test_steps_are_those_of_autograd(objective):
    assert_alike({"objective": objective})


@pytest.mark.parametrize("k", [2, 16])
def test_dead_latents_are_revived_alike(k):
    """Roughly: few tokens revive a latent, and bfloat16 of autograd decides what remains of their residual (test_revive.py)."""

    def prepare(member):
        with torch.no_grad():
            member.sae.b_enc[:6] -= 2
        member.tokens_since_fired[:6] = 10**6

    history = assert_alike({"dead_tokens": 10**5, "auxk": AuxK(1.0, k, 10**5)}, prepare, 1, 0.5, 0.3)
    assert history[0]["aux"] > 0.1


def reviving(module, member, optimiser, z):
    """The numbers of a fused step in which six latents are dead."""
    member.products = "fused"
    with torch.no_grad():
        member.sae.b_enc[:6] -= 1
    member.tokens_since_fired[:6] = 10**6
    with torch.autocast("cpu", torch.bfloat16):
        numbers = module._member_step(member, z, optimiser, optimiser.param_groups[0])
    return {name: float(value) for name, value in numbers.items()}


def shard(rank, folder):
    """A process that steps on 6 or on the other 10 tokens."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    z, settings = data(seed=2), {"objective": Matryoshka(), "auxk": AuxK(1.0, 3, 10**5), "dead_tokens": 10**5}
    with pytest.MonkeyPatch.context() as monkeypatch, collective.sharded_batch(6 if rank == 0 else 10, ROWS):
        take(monkeypatch)
        module, member, optimiser = bank(**settings)
        numbers = reviving(module, member, optimiser, z[:6] if rank == 0 else z[6:])
    torch.save((dict(member.sae.named_parameters()), member.tokens_since_fired, numbers), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_take_the_step_of_one(tmp_path):
    torch.multiprocessing.spawn(shard, (str(tmp_path),), nprocs=2)
    settings = {"objective": Matryoshka(), "auxk": AuxK(1.0, 3, 10**5), "dead_tokens": 10**5}
    begin = dict(bank(**settings)[1].sae.named_parameters())
    module, member, optimiser = bank(**settings)
    expected = reviving(module, member, optimiser, data(seed=2))
    assert expected["aux"] > 0
    for rank in (0, 1):
        parameters, since, numbers = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(since, member.tokens_since_fired)
        assert numbers == pytest.approx(expected, rel=2e-3)
        for name, p in member.sae.named_parameters():
            assert error(parameters[name] - begin[name], p - begin[name]) < 0.05, name


def test_shadows_follow_whatever_writes_a_parameter():
    module, member, optimiser = bank()
    member.products = "fused"
    again = copy.deepcopy(member)
    z, group = data(), optimiser.param_groups[0]
    with torch.autocast("cpu", torch.bfloat16):
        module._member_step(member, z, optimiser, group)
        member.load_state_dict(again.state_dict())
        numbers = module._member_step(member, z, optimiser, group)
        other = torch.optim.Adam(again.sae.parameters(), lr=member.lr, fused=True)
        expected = BankModule(SAEBank([again]), lambda groups: other)._member_step(
            again, z, other, other.param_groups[0]
        )
    assert float(numbers["loss"]) == float(expected["loss"])


def test_a_run_without_bfloat16_or_adam_takes_the_autograd_path(caplog):
    module, member, optimiser = bank()
    member.products = "fused"
    module._member_step(member, data(), optimiser, optimiser.param_groups[0])
    assert "a: its steps are not fused: trainer.precision is not bf16-mixed" in caplog.text


def test_the_kernels_are_timed_beside_products():
    timed = faster_path(16, 32, 40, 4, torch.device("cpu"), torch.bfloat16, 2, fused=True)
    assert timed.fused is not None and timed.fused > 0 and timed.path in ("sparse", "dense", "fused")


@pytest.mark.parametrize("sae", [BatchTopK(4), JumpReLU(l0_target=3.0), ReLU(sparsity=0.05)])
def test_steps_of_other_sparsifiers_are_those_of_autograd(sae, monkeypatch):
    """Roughly: by its rounding a pair is above a threshold or not (interpreted_thresholds.py has gradients of equal pairs)."""
    monkeypatch.setattr("saev.ops.fused.rules.DENSE", 1)
    monkeypatch.setattr("saev.ops.fused.batchtopk_pairs._BINS", 8192)
    assert_alike({"sae": sae}, steps=1, within=0.6, moments=0.2, numbers=0.1)


def test_dead_latents_of_gated_are_revived_alike(monkeypatch):
    monkeypatch.setattr("saev.ops.fused.rules.DENSE", 1)

    def prepare(member):
        with torch.no_grad():
            member.sae.sparsifier.b_gate[:6] -= 2
            member.sae.sparsifier.b_mag[:6] -= 2
        member.tokens_since_fired[:6] = 10**6

    settings = {"sae": Gated(sparsity=0.05), "dead_tokens": 10**5, "auxk": AuxK(1.0, 2, 10**5)}
    history = assert_alike(settings, prepare, steps=1, within=0.6, moments=0.2, numbers=0.1)
    assert history[0]["aux"] > 0.1


def test_of_too_many_codes_the_autograd_path_takes_the_step(monkeypatch):
    monkeypatch.setattr("saev.ops.fused.rules.DENSE", 1000)
    assert_alike({"sae": ReLU(sparsity=0.05)}, steps=1, within=1e-9)
