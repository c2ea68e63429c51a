"""Activations with few distinct tokens, as of a dry run on copies of a picture."""

import pytest
import torch
from conftest import mostly_slow
from nn.small_bank import train

from saev.nn import BatchTopK, Gated, JumpReLU, Member, Normaliser, ReLU, TopK
from saev.nn.sparsifiers.base import firing_threshold

SETTINGS = [ReLU(1e-3), ReLU(1e-3, l0_target=4), Gated(1e-3), JumpReLU(), JumpReLU(l0_target=4), TopK(4), BatchTopK(4)]


def copies(n_distinct, n=2048, d_model=24):
    """n tokens, n_distinct of them different, with the rounding of a pass over copies."""
    g = torch.Generator().manual_seed(n_distinct)
    z = torch.randn(n_distinct, d_model, generator=g).repeat(n // n_distinct, 1)
    return z + 1e-7 * torch.randn(z.shape, generator=g)


@pytest.mark.parametrize("n_distinct", mostly_slow([2, 4, 8, 32], 2))
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.name)
def test_the_start_does_not_depend_on_rounding(settings, n_distinct):
    z = copies(n_distinct)
    member = Member(settings, d_sae=96, lr=1e-3).build(Normaliser(torch.zeros(24), torch.ones(())), z)
    member(z).loss.backward()
    assert float(member.condition_gradients(1.0)) < 1000  # 1e6 and more where rounding decides
    scale = float(member.sae.w_enc.detach().norm(dim=0).max())
    assert 0.01 < scale < 10


@pytest.mark.parametrize("settings", mostly_slow(SETTINGS), ids=lambda s: s.name)
def test_few_distinct_tokens_are_learned(settings):
    z = copies(8)
    member = Member(settings, d_sae=96, lr=3e-3).build(Normaliser(torch.zeros(24), torch.ones(())), z)
    train(member, 150, z[:256])
    error = (z - member.sae(z)).square().sum() / (z - z.mean(0)).square().sum()
    assert float(error.detach()) < 0.5


def test_equal_values_fire_together():
    h = torch.tensor([3.0, 1.0, 2.0, 0.0]).repeat(100)[:, None].expand(-1, 50)
    noise = 1e-7 * torch.rand(h.shape, generator=torch.Generator().manual_seed(0))
    threshold = firing_threshold(h + noise)  # 2 % of 400 tokens; each value occurs 100 times
    torch.testing.assert_close((h + noise > threshold).sum(0), torch.full((50,), 100))
    distinct = torch.arange(400.0)[:, None].expand(-1, 50)
    assert bool((firing_threshold(distinct) == 391).all())
