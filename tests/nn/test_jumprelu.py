"""JumpReLU against the paper's formulas written out in NumPy, and its estimators against what they estimate."""

import numpy as np
import pytest
import torch

from saev.nn import JumpReLU

G = torch.Generator().manual_seed(0)
H = torch.randn(64, 10, generator=G, dtype=torch.float64)
THETA = torch.linspace(0.1, 1.0, 10, dtype=torch.float64)
W = torch.eye(10, dtype=torch.float64)


def make(**kw):
    act = JumpReLU(**kw).build(10).double()
    act.initialise_threshold(H)
    with torch.no_grad():
        act.theta.copy_(THETA)
        act.unit.fill_(1)
    return act


def test_codes_and_penalties():
    h, theta = H.numpy(), THETA.numpy()
    f = np.where(h > theta, h, 0)
    l0 = (h > theta).sum(1).mean()
    act = make(sparsity=0.5)
    np.testing.assert_array_equal(act(H).detach().numpy(), f)
    assert float(act.penalty(H, act(H), W).detach()) == pytest.approx(0.5 * l0, rel=1e-12)
    act = make(l0_target=2.0)
    assert float(act.penalty(H, act(H), W).detach()) == pytest.approx((l0 / 2 - 1) ** 2, rel=1e-12)
    act = make(sparsity=0.5, tanh=4.0)
    assert float(act.penalty(H, act(H), W).detach()) == pytest.approx(0.5 * np.tanh(4 * f).sum(1).mean(), rel=1e-12)


def test_gradients_are_the_papers():
    act, grad = make(sparsity=1.0, bandwidth=0.5), torch.randn(64, 10, generator=G, dtype=torch.float64)
    h = H.clone().requires_grad_()
    act(h).backward(grad)
    x, theta, g, eps = H.numpy(), THETA.numpy(), grad.numpy(), 0.5 * H.numpy().std(ddof=1)
    inside = np.abs(x - theta) < eps / 2
    np.testing.assert_allclose(h.grad.numpy(), g * (x > theta))
    np.testing.assert_allclose(act.theta.grad.numpy(), -(theta / eps) * (inside * g).sum(0), rtol=1e-6)
    act.theta.grad = h.grad = None
    act.penalty(h, act(h), W).backward()
    np.testing.assert_allclose(act.theta.grad.numpy(), -inside.sum(0) / eps / 64, rtol=1e-6)
    assert h.grad is None or not h.grad.any()


def test_the_estimators_are_the_slopes_of_expectations():
    """By finite differences of the mean L0 and of the mean squared error over many draws of h."""
    h = torch.randn(400_000, 1, generator=G, dtype=torch.float64)
    act = JumpReLU(sparsity=1.0, bandwidth=0.2).build(1).double()

    def losses(theta):
        with torch.no_grad():
            act.theta.fill_(theta)
        return torch.stack([act.penalty(h, act(h), W[:1]), (act(h) - 1).square().mean()])

    for i in range(2):
        act.theta.grad = None
        losses(0.7)[i].backward()
        slope = (losses(0.75)[i] - losses(0.65)[i]).item() / 0.1
        assert float(act.theta.grad) == pytest.approx(slope, rel=0.05, abs=0.01)


def test_thresholds_start_where_few_fire_and_stay_positive():
    act = JumpReLU().build(10)
    sample = torch.randn(5000, 10, generator=torch.Generator().manual_seed(1))
    act.initialise_threshold(sample)
    np.testing.assert_allclose((sample > act.threshold).float().mean(0).detach().numpy(), 0.02, atol=0.001)
    assert float(act.scale) == pytest.approx(float(sample.std()), rel=1e-5)
    with torch.no_grad():
        act.theta[3] = -1
    act.project()
    assert float(act.theta.detach()[3]) == 0


def test_thresholds_keep_pace_and_are_saved_in_units_of_h():
    """Guards against thresholds that creep behind the pre-activations: a step of Adam moves them by lr * pace * scale."""
    act = JumpReLU(l0_target=2, pace=64).build(10)
    act.initialise_threshold(3 * H.float())
    before = act.threshold.detach().clone()
    optimiser = torch.optim.Adam(act.parameters(), lr=1e-3)
    h = 3 * H.float()
    act.penalty(h, act(h), W.float()).backward()
    optimiser.step()
    moved = (act.threshold.detach() - before).abs()
    np.testing.assert_allclose(moved[moved > 0].numpy(), 1e-3 * 64 * float(act.scale), rtol=1e-3)
    assert (moved > 0).any()
    codes, threshold = act(h).detach(), act.threshold.detach().clone()
    act.finalise()
    assert float(act.unit) == 1 and torch.equal(act.theta.detach(), threshold) and torch.equal(act(h).detach(), codes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": -1}, r"^sparsity=-1: must be at least 0"),
        ({"l0_target": 0}, r"^l0_target=0: must be above 0"),
        ({"bandwidth": 0}, r"^bandwidth=0: must be above 0"),
        ({"pace": 0}, r"^pace=0: must be above 0"),
        ({"tanh": -1}, r"^tanh=-1: must be above 0 \(null for the L0 penalty\)"),
        ({"tanh": 4, "l0_target": 3}, r"^tanh=4 has no effect beside l0_target=3"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        JumpReLU(**settings)
