"""The kernels of the fused step on CPU tensors, by Triton's interpreter: test_step.py runs this file with TRITON_INTERPRET=1."""

import pytest
import torch
from ops.fused.rounding import rounding

from saev.ops.fused import check, pair_gradients
from saev.ops.fused import transposed as transposition
from saev.ops.fused.buffers import Buffers
from saev.ops.fused.pairs import Pairs
from saev.ops.fused.reference import NAMES, RATES, dense, error, problem, state_of
from saev.ops.fused.rules import TopKRule
from saev.ops.fused.step import fused_step
from saev.ops.fused.topk_pairs import topk_pairs
from saev.ops.fused.transposed import SPLIT, transposed

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def rounds_to_nearest(monkeypatch):
    rounding(monkeypatch)


@pytest.mark.parametrize(("d_sae", "k"), [(64, 4), (96, 16), (1056, 5), (40, 40)])
def test_pairs_are_the_largest_of_each_row(d_sae, k):
    generator = torch.Generator().manual_seed(d_sae)
    h = torch.randn(9, d_sae, generator=generator).bfloat16()
    h[0], h[1], h[2], h[3, ::2] = 1.0, -1.0, 0.0, 2.0
    h[4, 3:], h[5, ::3], h[6, 1], h[6, 2] = -2.0, h[5, 0], torch.nan, torch.inf
    buffers = Buffers(CPU).for_rows(9)
    pairs = buffers.equal_rows(k, d_sae)
    topk_pairs(h, k, pairs, buffers)
    pairs.counts.zero_()
    buffers.poison()
    topk_pairs(h, k, pairs, buffers)
    keys = torch.where((h > 0) | h.isnan(), h.view(torch.int16), 0).int()
    order = keys.sort(dim=1, descending=True, stable=True).indices[:, :k]  # of equals the first
    for row in range(9):
        expected = sorted(j for j in order[row].tolist() if keys[row, j] > 0)
        latents = pairs.latents.view(9, k)[row].tolist()
        assert latents == expected + [d_sae] * (k - len(expected)), row
        assert torch.equal(
            pairs.values.view(torch.int16).view(9, k)[row, : len(expected)], h.view(torch.int16)[row, expected]
        )
    fired = torch.bincount(pairs.latents.long(), minlength=d_sae + 1)[:d_sae]
    assert torch.equal(pairs.counts[0].long(), fired)


def uneven_pairs(rows, d_sae, generator):
    """Rows of no, few and many pairs; latent 3 in all that have some, latent 4 in none, and padding."""
    lengths = torch.randint(0, min(80, d_sae - 1), (rows,), generator=generator)
    lengths[::7] = 0
    pairs = Pairs.empty(rows, int(lengths.sum()) + 9, d_sae, CPU)
    pairs.offsets[1:] = lengths.cumsum(0)
    for r, n in enumerate(lengths.tolist()):
        drawn = torch.randperm(d_sae, generator=generator)[:n]
        drawn = torch.where(drawn == 4, d_sae, drawn)
        if n and 3 not in drawn:
            drawn[0] = 3
        first = int(pairs.offsets[r])
        pairs.latents[first : first + n] = drawn.sort().values
        for j in drawn[drawn < d_sae].tolist():
            pairs.counts[r // 128, j] += 1
    pairs.values.copy_(torch.rand(len(pairs.values), generator=generator) + 0.1)
    return pairs


@pytest.mark.parametrize(("rows", "d_sae"), [(300, 97), (5, 200)])
def test_transposition_is_a_stable_sort(rows, d_sae):
    generator = torch.Generator().manual_seed(0)
    pairs, buffers = uneven_pairs(rows, d_sae, generator), Buffers(CPU)
    d_values = torch.randn(len(pairs.values), generator=generator)
    expected_fired = pairs.counts.sum(0)
    by_latent = transposed(pairs, d_values, buffers)
    n = int(pairs.offsets[-1])
    valid = (pairs.latents[:n] < d_sae).nonzero().squeeze(1)
    order = valid[pairs.latents[valid].sort(stable=True).indices]
    row = torch.repeat_interleave(torch.arange(rows), pairs.offsets.diff())
    assert torch.equal(by_latent.rows[: len(order)], row[order].int())
    assert torch.equal(by_latent.values[: len(order)], pairs.values[order].float())
    assert torch.equal(by_latent.d_values[: len(order)], d_values[order])
    assert torch.equal(by_latent.fired, expected_fired.int()) and torch.equal(by_latent.offsets.diff(), by_latent.fired)
    assert torch.equal(by_latent.extra.diff(), ((by_latent.fired + SPLIT - 1) // SPLIT - 1).clamp_min(0))
    assert not pairs.counts.any()


@pytest.fixture
def short_segments(monkeypatch):
    """Latents are split at 8 pairs, so that one of 20 has two further segments."""
    for module in (transposition, pair_gradients):
        monkeypatch.setattr(module, "SPLIT", 8)


@pytest.mark.parametrize("ends", [[40], [5, 6, 30, 40]])
def test_a_step_is_that_of_dense_autograd_and_adam(ends, short_segments):
    rows, d_model, d_sae, k = 20, 48, 40, 5
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(rows, d_model, generator=generator)
    weights = problem(d_model, d_sae)
    state, buffers = state_of(weights), Buffers(CPU)
    optimised = [torch.nn.Parameter(w.clone()) for w in weights]
    adam = torch.optim.Adam(optimised, RATES.lr)
    for step in range(2):
        before = [s.weight.clone() for s in state[:4]]
        since = state.tokens_since_fired.clone()
        numbers = fused_step(z, TopKRule(k), state, ends, RATES, buffers)
        pairs = buffers.equal_rows(k, d_sae)
        codes = pairs.dense()
        loss, last, expected = dense(z, before, codes, ends)
        assert error(numbers.loss, loss) < 1e-2
        assert error(numbers.z_mse, last) < 1e-2
        gradients = [buffers(f"gradient of {name}", *w.shape) for name, w in zip(NAMES, weights, strict=True)]
        for name, actual, of in zip(NAMES, gradients, expected, strict=True):
            assert error(actual, of) < 2e-2, (step, name)
        fired = (codes != 0).sum(0)
        assert round(float(numbers.l0) * rows) == int(fired.sum()) and fired[1] == rows and fired[2] == 0
        assert torch.equal(state.tokens_since_fired, torch.where(fired > 0, 0, since + rows))
        # Adam by torch, from the kernels' gradients: what is along an atom removed, clipped
        with torch.no_grad():
            for p, w, g in zip(optimised, before, gradients, strict=True):
                p.copy_(w)
                p.grad = g.clone()
            optimised[0].grad -= (gradients[0] * before[0]).sum(1, keepdim=True) * before[0]
            norm = torch.nn.utils.clip_grad_norm_(optimised, RATES.clip)
        adam.step()
        with torch.no_grad():
            optimised[0].div_(optimised[0].norm(dim=1, keepdim=True))
        assert error(numbers.norm, norm) < 1e-3
        for name, p, s, count in zip(NAMES, optimised, state[:4], state.steps, strict=True):
            assert (
                error(s.weight, p) < 1e-5
                and error(s.weight - before[NAMES.index(name)], p - before[NAMES.index(name)]) < 2e-3
            ), name
            assert error(s.m, adam.state[p]["exp_avg"]) < 1e-3 and error(s.v, adam.state[p]["exp_avg_sq"]) < 2e-3, name
            assert count == step + 1
        for shadow, s in zip(state.shadows, state[:3], strict=True):
            assert torch.equal(shadow, s.weight.bfloat16())
        buffers.poison()


def test_the_same_bits_each_time_whatever_buffers_held(short_segments):
    z, weights = torch.randn(20, 32, generator=torch.Generator().manual_seed(2)), problem(32, 40)
    buffers, results = Buffers(CPU), []
    for _ in range(2):
        state = state_of(weights)
        numbers = fused_step(z, TopKRule(5), state, [9, 40], RATES, buffers)
        results.append([*(w for s in state[:4] for w in s), *state.shadows, state.tokens_since_fired, *numbers])
        buffers.poison()
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other) and not one.isnan().any()


def test_nan_in_a_token_stays_in_range_and_shows():
    z, state = torch.randn(9, 16), state_of(problem(16, 40))
    z[3, 5] = torch.nan
    numbers = fused_step(z, TopKRule(3), state, [40], RATES, Buffers(CPU))
    assert numbers.loss.isnan() and numbers.norm.isnan() and state.atoms.weight.isnan().any()
    assert 0 < float(numbers.l0) <= 3


def test_the_check_passes_on_what_is_right_and_names_what_is_wrong(monkeypatch, short_segments, caplog):
    shape = (CPU, 16, 40, 4, 1)
    assert check.check(*shape, rows=20) is None
    monkeypatch.setattr(check, "WITHIN", 0.0)
    assert check.check(*shape, rows=20) == "gradient of atoms"
    monkeypatch.setattr(check, "check", lambda *a: "loss")
    assert not check.usable(*shape) and "its loss is wrong" in caplog.text
