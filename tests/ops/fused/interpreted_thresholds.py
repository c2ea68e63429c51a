"""JumpReLU and Gated on pairs beside autograd through their sparsifiers: test_selection.py runs this with TRITON_INTERPRET=1."""

import pytest
import torch
from ops.fused.rounding import rounding
from torch.testing import assert_close

from saev.nn.sparsifiers.settings import Gated, JumpReLU
from saev.ops.fused import gated_pairs, jump_pairs
from saev.ops.fused.buffers import Buffers
from saev.ops.fused.decode_loss import decode_loss
from saev.ops.fused.pairs import Pairs
from saev.ops.fused.pairs_beyond import pairs_beyond
from saev.ops.fused.rules import beyond
from saev.ops.fused.transposed import Transposed, transposed

ROWS, D_MODEL, D_SAE = 40, 16, 48
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def rounds_to_nearest(monkeypatch):
    rounding(monkeypatch)
    for module in (gated_pairs, jump_pairs):
        monkeypatch.setattr(module, "TILE", 16)  # latents of several tiles


class Problem:
    """A batch whose pre-activations are leaves; latent 1 fires on all rows, 2 on none, 3 on one row."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.h = torch.randn(ROWS, D_SAE, generator=generator).bfloat16()
        self.h[:, 1], self.h[:, 2] = self.h[:, 1].abs() + 4, -9.0
        self.h[1:, 3], self.h[0, 3] = -9.0, 5.0
        self.z = torch.randn(ROWS, D_MODEL, generator=generator)
        self.b_dec = torch.randn(D_MODEL, generator=generator)
        self.atoms = torch.nn.functional.normalize(torch.randn(D_SAE, D_MODEL, generator=generator), dim=1).bfloat16()
        self.buffers = Buffers(CPU).for_rows(ROWS)
        self.pairs = Pairs.empty(ROWS, 900, D_SAE, CPU)
        self.scale = 2 / self.z.numel()

    def autograd(self, sparsifier):
        """(pre-activations with their gradient, codes) of the whole loss; the sparsifier's parameters get theirs."""
        h, atoms = self.h.float().requires_grad_(), self.atoms.float()
        f = sparsifier(h)
        loss = (f @ atoms + self.b_dec - self.z).square().mean() + sparsifier.penalty(h, f, atoms)
        (loss + sparsifier.auxiliary_loss(self.z, h, atoms, self.b_dec)).backward()
        return h, f

    def decoded(self, codes):
        """The gradient of each code with regard to the reconstruction's error."""
        d_values = torch.full((900,), torch.nan)
        residual, squared = torch.empty(ROWS, D_MODEL).bfloat16(), torch.empty(ROWS)
        decode_loss(self.z, self.b_dec, self.atoms, codes, self.scale, residual, d_values, squared)
        return d_values

    def assert_pairs(self, by_latent: Transposed, f: torch.Tensor, d_h: torch.Tensor, atol: float):
        """Codes and the pre-activations' gradients are these wherever there is a pair, and 0 elsewhere."""
        n = int(by_latent.offsets[-1])
        index = by_latent.rows[:n].long(), torch.repeat_interleave(by_latent.fired)
        for values, expected in ((by_latent.values, f), (by_latent.d_values, d_h)):
            dense = torch.zeros(ROWS, D_SAE)
            dense[index] = values[:n]
            assert_close(dense, expected, rtol=5e-3, atol=atol)


def thresholds_of(sparsifier):
    """Different ones, some of them within half a kernel's width of 0."""
    with torch.no_grad():
        sparsifier.scale.fill_(0.9), sparsifier.unit.fill_(1.7)
        sparsifier.theta.copy_(torch.rand(D_SAE, generator=torch.Generator().manual_seed(1)))
        sparsifier.theta[5:9] = 0.0
    return sparsifier.threshold.detach(), sparsifier.epsilon


@pytest.mark.parametrize(
    "settings",
    [JumpReLU(sparsity=0.1), JumpReLU(sparsity=0.1, tanh=2.0, bandwidth=1.0), JumpReLU(l0_target=3.0, bandwidth=0.2)],
)
def test_jumprelu_is_that_of_autograd(settings):
    problem, sparsifier = Problem(), settings.build(D_SAE)
    theta, epsilon = thresholds_of(sparsifier)
    h, f = problem.autograd(sparsifier)
    pairs_beyond(problem.h, theta - 0.501 * epsilon, problem.pairs, problem.buffers)
    codes = jump_pairs.jump_codes(problem.pairs, theta, torch.full((900,), torch.nan).bfloat16())
    problem.buffers.poison()
    by_latent = transposed(problem.pairs, problem.decoded(codes), problem.buffers)
    tanh = None if settings.tanh is None else (settings.sparsity / ROWS, settings.tanh)
    sums = jump_pairs.jump_gradients(by_latent, theta, epsilon, problem.buffers, tanh)
    problem.assert_pairs(by_latent, f.detach(), h.grad, atol=1e-5)
    assert torch.equal(sums.fired.long(), (f != 0).sum(0)) and int(sums.fired[1]) == ROWS
    l0 = sums.fired.sum() / ROWS
    per_l0 = 0.0 if settings.tanh else settings.sparsity  # of the penalty
    if settings.l0_target is not None:
        per_l0 = 2 * (l0 / settings.l0_target - 1) / settings.l0_target
    d_theta = -(theta * sums.d_code + per_l0 / ROWS * sums.under) / epsilon * sparsifier.unit
    assert_close(d_theta, sparsifier.theta.grad, rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize("coefficient", [0.0, 0.3])
def test_gated_is_that_of_autograd(coefficient):
    problem, sparsifier = Problem(), Gated(sparsity=coefficient).build(D_SAE)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (sparsifier.r, sparsifier.b_gate, sparsifier.b_mag):
            parameter.copy_(torch.randn(D_SAE, generator=generator) - 0.5)
    h, f = problem.autograd(sparsifier)
    b_gate, b_mag, scale = sparsifier.b_gate.detach(), sparsifier.b_mag.detach(), sparsifier.r.detach().exp()
    pairs_beyond(problem.h, -b_gate, problem.pairs, problem.buffers)
    codes, gates = (torch.full((900,), torch.nan).bfloat16() for _ in range(2))
    of_codes, of_gates = gated_pairs.gated_codes(problem.pairs, scale, b_mag, b_gate, codes, gates)
    problem.buffers.poison()
    by_latent = transposed(problem.pairs, problem.decoded(of_codes), problem.buffers, d_gates=problem.decoded(of_gates))
    sums = gated_pairs.gated_gradients(
        by_latent, scale, b_mag, b_gate, torch.tensor(coefficient / ROWS), problem.buffers
    )
    problem.assert_pairs(
        by_latent, f.detach(), h.grad, atol=3e-4
    )  # codes are rounded to bfloat16, not only pre-activations
    assert torch.equal(sums.fired.long(), (f != 0).sum(0))
    for name, actual in (("r", scale * sums.scale), ("b_mag", sums.b_mag), ("b_gate", sums.b_gate)):
        assert_close(actual, getattr(sparsifier, name).grad, rtol=1e-2, atol=1e-3, msg=name)


def test_too_many_pairs_are_refused_whatever_was_selected_before():
    """Else the way of a step would depend on earlier steps, and differ after a resume."""
    h, buffers = Problem().h, Buffers(CPU).for_rows(ROWS)
    some, many = torch.full((D_SAE,), 4.5), torch.full((D_SAE,), -9.5)
    assert beyond(h, many, buffers) is None
    buffers.any_rows(h.numel(), D_SAE)  # room for all of them
    assert beyond(h, many, buffers) is None
    pairs = beyond(h, some, buffers)
    assert pairs is not None and int(pairs.offsets[-1]) == int((h > 4.5).sum()) > 0
    assert torch.equal(pairs.counts.sum(0), (h > 4.5).sum(0).int()), "counts of refused selections are cleared"
