"""Losses against NumPy, gradients against finite differences."""

import numpy as np
import pytest
import torch

from saev.nn.decoding import reconstruction_error
from saev.nn.objectives import Matryoshka, Plain, RandomMatryoshka

G = torch.Generator().manual_seed(0)
Z = torch.randn(10, 6, generator=G, dtype=torch.float64)
H = torch.randn(10, 16, generator=G, dtype=torch.float64)
W = torch.nn.functional.normalize(torch.randn(16, 6, generator=G, dtype=torch.float64), dim=1)
B = torch.randn(6, generator=G, dtype=torch.float64)


def test_plain_is_the_mean_squared_error_per_dimension():
    loss, residual = reconstruction_error(Z, H.relu(), W, B, Plain().ends(16))
    expected = Z.numpy() - np.maximum(H.numpy(), 0) @ W.numpy() - B.numpy()
    np.testing.assert_allclose(residual.numpy(), expected, rtol=1e-10)
    assert float(loss) == pytest.approx((expected**2).sum(1).mean() / 6, rel=1e-12)


def test_matryoshka_is_the_mean_over_prefixes():
    loss, residual = reconstruction_error(Z, H.relu(), W, B, Matryoshka().ends(16))
    f = np.maximum(H.numpy(), 0)
    errors = [((Z.numpy() - f[:, :n] @ W.numpy()[:n] - B.numpy()) ** 2).mean() for n in (1, 2, 4, 8, 16)]
    assert float(loss) == pytest.approx(np.mean(errors), rel=1e-12)
    assert float(residual.square().mean()) == pytest.approx(errors[-1], rel=1e-12)


def test_random_prefixes_follow_their_law_and_the_step():
    drawn = RandomMatryoshka(n_prefixes=2, power=0.5)
    counts = np.bincount([drawn.ends(9, step)[0] for step in range(4000)], minlength=9)[1:]
    lengths = np.arange(1, 9)
    law = lengths**-0.5 - (lengths + 1.0) ** -0.5
    np.testing.assert_allclose(counts / 4000, law / law.sum(), atol=0.03)
    many = RandomMatryoshka(n_prefixes=6)
    assert many.ends(64, 3) == many.ends(64, 3) != many.ends(64, 4) and RandomMatryoshka(6, seed=1).ends(
        64, 3
    ) != many.ends(64, 3)
    ends = many.ends(64, 3)
    assert len(ends) == 6 and ends == sorted(set(ends)) and ends[-1] == 64


def test_random_matryoshka_is_the_mean_over_its_prefixes():
    objective = RandomMatryoshka(n_prefixes=4)
    loss, residual = reconstruction_error(Z, H.relu(), W, B, objective.ends(16, step=5))
    f = np.maximum(H.numpy(), 0)
    errors = [((Z.numpy() - f[:, :n] @ W.numpy()[:n] - B.numpy()) ** 2).mean() for n in objective.ends(16, 5)]
    assert float(loss) == pytest.approx(np.mean(errors), rel=1e-12)
    assert float(residual.square().mean()) == pytest.approx(errors[-1], rel=1e-12)


def test_more_prefixes_than_latents():
    with pytest.raises(ValueError, match="n_prefixes=10 is more than d_sae=8"):
        RandomMatryoshka().check_width(8)
    with pytest.raises(ValueError, match=r"^objective\.n_prefixes=1: must be at least 2"):
        RandomMatryoshka(n_prefixes=1)


@pytest.mark.parametrize(
    "objective", [Plain(), Matryoshka(), RandomMatryoshka(4)], ids=["plain", "matryoshka", "random"]
)
def test_gradients_by_finite_differences(objective):
    inputs = [
        Z.clone().requires_grad_(),
        H.abs().requires_grad_(),
        W.clone().requires_grad_(),
        B.clone().requires_grad_(),
    ]
    assert torch.autograd.gradcheck(lambda *a: reconstruction_error(*a, objective.ends(16))[0], inputs)


@pytest.mark.parametrize("groups", [[], [0.5, 0.6], [1.5, -0.5]])
def test_groups_must_be_fractions(groups):
    with pytest.raises(ValueError, match=r"objective.groups=.*add up to 1"):
        Matryoshka(groups)


def test_a_group_without_latents_is_named():
    with pytest.raises(ValueError, match="d_sae=8 empty: raise d_sae"):
        Matryoshka().check_width(8)
