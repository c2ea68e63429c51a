"""What bench_step.py sets beside each other is the same step: equal weights after it; and the floor is a time."""

import pytest
import torch

from benchmarks import bench_step
from benchmarks.bench_step import measured
from benchmarks.step_contenders import L1, PREFIXES, K, Options, contenders, data, ours, stepped, with_dead
from benchmarks.step_limits import parts_of_floor, profiled
from benchmarks.step_references import (
    DenseSAE,
    dense_auxk,
    dense_batchtopk,
    dense_matryoshka,
    dense_relu,
    dense_stacked,
    dense_topk,
)
from saev.nn import BatchTopK, ReLU, TopK

SIZE = (16, 320, 96)
OPTIONS = Options(torch.device("cpu"), None, cpu_seconds=False, rounds=1)
PAIRS = {
    "topk": (lambda: ours(SIZE, TopK(K), OPTIONS), lambda m: dense_topk(m, K, None)),
    "batchtopk": (lambda: ours(SIZE, BatchTopK(K), OPTIONS), lambda m: dense_batchtopk(m, K, None)),
    "matryoshka": (lambda: ours(SIZE, TopK(K), OPTIONS, PREFIXES), lambda m: dense_matryoshka(m, K, None)),
    "auxk": (lambda: ours(SIZE, TopK(K), OPTIONS), lambda m: dense_auxk(m, K, 9, None)),
    "stacked": (lambda: ours(SIZE, TopK(K), OPTIONS), lambda m: dense_stacked([m, m], K, None)),
    "relu": (lambda: ours(SIZE, ReLU(L1), OPTIONS), lambda m: dense_relu(m, L1, None)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_dense_step_is_the_same_step(monkeypatch, name):
    made: list[DenseSAE] = []
    monkeypatch.setattr("benchmarks.step_references.DenseSAE", lambda member: made.append(DenseSAE(member)) or made[-1])
    member = PAIRS[name][0]()
    step = stepped([member], OPTIONS)
    if name == "auxk":
        step = with_dead(member, 9, step)
    dense = PAIRS[name][1](member)
    z = data(SIZE, OPTIONS.device)
    before = member.sae.w_enc.detach().clone()
    step(z)
    dense(z)
    moved = (member.sae.w_enc - before).abs().max()
    assert moved > 1e-4
    for parameter in ("w_enc", "b_enc", "w_dec", "b_dec"):
        mine, theirs = getattr(member.sae, parameter), getattr(made[0], parameter)
        if name == "stacked":
            assert torch.equal(theirs[0], theirs[1]), "the same member twice"
            theirs = theirs[0].view_as(mine)
        # Adam's first step is the gradient's sign: where that is all but 0 rounding decides it
        assert ((mine - theirs).abs() < 1e-6).float().mean() > 0.99, parameter


@pytest.mark.slow
def test_all_contenders_step_and_are_timed():
    z = data(SIZE, OPTIONS.device)
    groups = contenders(SIZE, OPTIONS, peers=False)
    assert {group for group, _ in (*bench_step.GOALS, *bench_step.GPU_GOALS)} <= set(groups)
    for group, steps in groups.items():
        times = measured(steps, z, OPTIONS)
        assert next(iter(times)) == "ours" and all(len(t) == 1 and t[0] > 0 for t in times.values()), group
    parts = parts_of_floor(SIZE[1], z, K, torch.float32)
    assert len(parts) == 4 and all(spent > 0 for spent in parts.values())


@pytest.mark.slow
def test_a_profile_names_operations():
    step, z = stepped([ours(SIZE, TopK(K), OPTIONS)], OPTIONS), data(SIZE, OPTIONS.device)
    assert "aten::addmm" in profiled(step, z, rows=-1)  # among the most expensive it is only where nothing disturbs it
    assert len(profiled(step, z, rows=3).splitlines()) < 12
