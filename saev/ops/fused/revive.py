"""The gradients of AuxK's loss, by products of the latents that may be dead: `saev.nn.auxk` defines it."""

import torch
from jaxtyping import BFloat16, Bool, Float32, Int64
from torch import Tensor

from saev.ops import collective
from saev.ops.fused.step import Decoded, State
from saev.ops.topk import topk_codes


@torch.no_grad()
def revive(
    decoded: Decoded,
    centred: BFloat16[Tensor, "rows d_model"],
    state: State,
    maybe: Int64[Tensor, " n"],
    dead: Bool[Tensor, " d_sae"],
    k: int,
    coefficient: float,
) -> Float32[Tensor, ""]:
    """Add the gradients of AuxK's loss to those of a step, and return the loss, a mean over this process's tokens.

    e_hat decodes the k largest codes of dead latents, `maybe` being latents among which these are; the loss is
    coefficient * ||e_hat - e||^2 / ||e - mean(e)||^2 with e = z - z_hat, which takes no gradient. All six products are bfloat16, of
    `maybe` latents; b_dec gets its gradient from that of b_enc, as in the rest of the step.
    """
    residual, gradients, rows = decoded.residuals[-1], decoded.gradients, len(centred)  # z_hat - z = -e
    encoder, bias, atoms = (
        x.index_select(0, maybe) for x in (state.shadows.encoder, state.shadows.b_enc, state.shadows.atoms)
    )
    h = torch.addmm(bias, centred, encoder.T).masked_fill_(~dead[maybe], 0)
    codes = topk_codes(h, k) if k < len(maybe) else h.relu_()
    mean = residual.sum(0, dtype=torch.float32) / rows
    common = collective.all_reduce_mean(mean)
    spread = decoded.last.sum() - rows * (2 * mean - common).dot(common)  # of e around the mean of all processes
    spread = collective.all_reduce_sum(spread).clamp_min(1e-12)
    difference = torch.addmm(residual, codes, atoms)
    weight = coefficient * dead.any() / spread
    by_output = difference * (2 * weight).bfloat16()
    by_code = (by_output @ atoms.T).masked_fill_(codes <= 0, 0)
    gradients.atoms.index_add_(0, maybe, (codes.T @ by_output).float())
    gradients.encoder.index_add_(0, maybe, (by_code.T @ centred).float())
    gradients.b_enc.index_add_(0, maybe, by_code.sum(0, dtype=torch.float32))
    gradients.renew(maybe, state.atoms.weight)
    # of this process's tokens, as the error that it is compared with
    return weight * difference.float().square().sum() / collective.weight_by_fraction(torch.ones_like(spread))
