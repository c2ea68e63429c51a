"""The kernels of a fused step that take the place of sparse or dense products, for `saev.ops.choice` to time."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saev.ops.fused.adam_atoms import AdamState, Shadows
from saev.ops.fused.buffers import Buffers
from saev.ops.fused.finish import b_dec_gradient
from saev.ops.fused.pairs import ROWS, Pairs
from saev.ops.fused.rules import TopKRule
from saev.ops.fused.step import State, decode
from saev.ops.gpu_sums import on_its_device
from saev.ops.sparse import SparseCodes


def prepared(
    codes: SparseCodes, z: Float[Tensor, "rows d_model"], w_dec: Float[Tensor, "d_sae d_model"], ends: Sequence[int]
) -> Callable[[], None]:
    """A function that decodes these codes, of equal numbers a row, and computes all gradients."""
    (rows, d_model), d_sae, k = z.shape, len(w_dec), len(codes.latents) // len(z)
    buffers, centred = Buffers(z.device).for_rows(rows), z.bfloat16()
    block = codes.rows() // ROWS
    counts = torch.zeros(-(-rows // ROWS) * d_sae, dtype=torch.int32, device=z.device)
    counts.index_add_(0, block * d_sae + codes.latents, torch.ones_like(codes.latents, dtype=torch.int32))
    pairs = Pairs(codes.offsets.int(), codes.latents.int(), codes.values.bfloat16(), counts.view(-1, d_sae))
    counts = pairs.counts.clone()
    atoms, b_dec, shadow = AdamState(w_dec, w_dec, w_dec), z.new_zeros(d_model), w_dec.bfloat16()
    bias = AdamState(b_dec, b_dec, b_dec)
    shadows = Shadows(shadow, shadow, shadow.new_zeros(d_sae))
    state = State(atoms, atoms, bias, bias, [], shadows, torch.zeros(d_sae, dtype=torch.int64, device=z.device))
    scale, rule = 2 / (z.numel() * len(ends)), TopKRule(k)

    def step() -> None:
        pairs.counts.copy_(counts)
        with on_its_device(z):
            decoded = decode(z, centred, state, pairs, ends, scale, buffers, rule)
            b_dec_gradient(decoded.residuals[0], shadow, decoded.gradients.b_enc, scale, buffers)

    return step
