"""The gradients of AuxK's loss by bfloat16 products, beside autograd of its definition in float32."""

import pytest
import torch

pytest.importorskip("triton")

from saev.nn import AuxK, Member, Normaliser, Plain, TopK
from saev.nn.auxk import auxk_loss
from saev.ops.fused.pair_gradients import Gradients
from saev.ops.fused.reference import error, state_of
from saev.ops.fused.revive import revive
from saev.ops.fused.step import Decoded
from saev.ops.fused.transposed import Transposed


@pytest.mark.parametrize(("k", "n_dead"), [(2, 6), (16, 6), (4, 0)])
def test_gradients_are_those_of_autograd(k, n_dead):
    d_model, d_sae, rows = 32, 40, 200
    z = torch.randn(rows, d_model, generator=torch.Generator().manual_seed(0))
    spec = Member(TopK(4), "a", Plain(), AuxK(0.7, k), 1e-3, d_sae=d_sae)
    sae = spec.build(Normaliser(torch.zeros(d_model), torch.ones(())), z).sae
    with torch.no_grad():
        sae.b_enc += 0.1
    dead, maybe = torch.arange(d_sae) < n_dead, torch.arange(9)
    residual = (0.5 * torch.randn(rows, d_model, generator=torch.Generator().manual_seed(1)) + 0.3).bfloat16()
    loss = auxk_loss(AuxK(0.7, k), sae, z, sae.pre_activations(z).detach(), -residual.float(), dead, maybe)
    expected = torch.autograd.grad(loss, [sae.w_dec, sae.encoder, sae.b_enc]) if n_dead else [torch.zeros(())] * 3

    gradients = Gradients(
        torch.ones(d_sae, d_model), torch.ones(d_sae, d_model), torch.ones(d_sae), torch.full((2, d_sae), 9.0), torch.full((2, d_sae), 9.0)
    )  # fmt: skip
    nothing = torch.zeros(0, dtype=torch.int32)
    by_latent = Transposed(nothing, nothing, nothing, nothing, torch.zeros(0), torch.zeros(0))
    squared = residual.float().square().sum(1)
    state = state_of([p.detach() for p in (sae.w_dec, sae.encoder, sae.b_enc, sae.b_dec)])
    decoded = Decoded(residual[None], squared, squared, by_latent, gradients)
    actual = revive(decoded, (z - sae.b_dec).detach().bfloat16(), state, maybe, dead, k, 0.7)
    assert float(actual) == pytest.approx(float(loss), rel=0.01)
    for mine, right in zip(gradients[:3], expected, strict=True):
        assert error(mine - 1, right.expand_as(mine)) < 0.02 if n_dead else torch.equal(mine, torch.ones_like(mine))
    of = gradients.atoms.square().sum(1) + gradients.encoder.square().sum(1)
    torch.testing.assert_close(gradients.squares[:, :9].sum(0), of[:9])
    torch.testing.assert_close(gradients.dots[:, :9].sum(0), (gradients.atoms * sae.w_dec).sum(1)[:9].detach())
    assert (gradients.squares[:, 9:] == 9).all()
