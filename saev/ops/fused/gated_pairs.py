"""Gated autoencoders on pairs: codes and gates from pre-activations, and the gradients of a latent's scale and both biases.

`pairs_beyond` selects h > -b_gate: the pairs whose gate is open. The gate is h + b_gate, the code relu(scale * h + b_mag).
"""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import BFloat16, Float32, Int32
from torch import Tensor

from saev.ops.fused.buffers import Buffers
from saev.ops.fused.pairs import Pairs
from saev.ops.fused.shapes import launch
from saev.ops.fused.transposed import Transposed

TILE = 512  # pairs at once


class Gates(NamedTuple):
    """Per latent, sums over its pairs in a fixed order."""

    scale: Float32[Tensor, " d_sae"]  # gradient of the scale exp(r)
    b_mag: Float32[Tensor, " d_sae"]
    b_gate: Float32[Tensor, " d_sae"]
    fired: Int32[Tensor, " d_sae"]  # pairs whose code is not 0
    gates: Float32[Tensor, " d_sae"]  # values of the gates


def gated_codes(
    pairs: Pairs,
    scale: Float32[Tensor, " d_sae"],
    b_mag: Float32[Tensor, " d_sae"],
    b_gate: Float32[Tensor, " d_sae"],
    codes: BFloat16[Tensor, " capacity"],
    gates: BFloat16[Tensor, " capacity"],
) -> tuple[Pairs, Pairs]:
    """The pairs with codes, and with gates, in place of pre-activations, in these two."""
    _codes[(triton.cdiv(len(codes), TILE),)](
        pairs.latents,
        pairs.values,
        scale,
        b_mag,
        b_gate,
        codes,
        gates,
        pairs.offsets,
        pairs.n_rows,
        TILE=TILE,
        **launch(4),
    )
    return pairs._replace(values=codes), pairs._replace(values=gates)


def gated_gradients(
    by_latent: Transposed,
    scale: Float32[Tensor, " d_sae"],
    b_mag: Float32[Tensor, " d_sae"],
    b_gate: Float32[Tensor, " d_sae"],
    penalty: Float32[Tensor, ""],
    buffers: Buffers,
) -> Gates:
    """Turn pre-activations and the codes' gradients, in place, into codes and the pre-activations' gradients; sum per latent.

    `penalty` is the gradient of the loss with regard to each gate's value, beside `by_latent.d_gates`. One program per latent.
    """
    d_sae = len(scale)
    active = buffers("active", d_sae, dtype=torch.int32)
    sums = Gates(
        buffers("d_scale", d_sae),
        buffers("d_b_mag", d_sae),
        buffers("d_b_gate", d_sae),
        active,
        buffers("sum of gates", d_sae),
    )
    _gradients[(d_sae,)](
        by_latent.offsets,
        by_latent.values,
        by_latent.d_values,
        by_latent.d_gates,
        scale,
        b_mag,
        b_gate,
        penalty,
        *sums,
        TILE=TILE,
        **launch(4),
    )
    return sums


@triton.jit
@no_type_check
def _codes(latents, values, scale, b_mag, b_gate, codes, gates, offsets, rows, TILE: tl.constexpr):
    """A program writes TILE codes and gates."""
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    valid = at < tl.load(offsets + rows)
    latent = tl.load(latents + at, mask=valid, other=0)
    h = tl.load(values + at, mask=valid, other=0).to(tl.float32)
    f = _code(h, tl.load(scale + latent, mask=valid, other=0), tl.load(b_mag + latent, mask=valid, other=0))
    gate = h + tl.load(b_gate + latent, mask=valid, other=0)
    tl.store(codes + at, f.to(tl.bfloat16), mask=valid)
    tl.store(gates + at, gate.to(tl.bfloat16), mask=valid)


@triton.jit
@no_type_check
def _code(h, scale, b_mag):
    """NaN stays NaN."""
    f = scale * h + b_mag
    return tl.where(f <= 0, 0, f)


@triton.jit
@no_type_check
def _gradients(
    offsets, values, d_values, d_gates, scale, b_mag, b_gate, penalty, sum_scale, sum_b_mag, sum_b_gate, fired,
    sum_gates, TILE: tl.constexpr,
):  # fmt: skip
    latent = tl.program_id(0)
    factor, bias, of_gates = tl.load(scale + latent), tl.load(b_mag + latent), tl.load(penalty)
    by_scale, by_mag, by_gate = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32)
    n_fired, gates, threshold = tl.zeros([TILE], tl.int32), tl.zeros([TILE], tl.float32), tl.load(b_gate + latent)
    end = tl.load(offsets + latent + 1)
    for start in range(tl.load(offsets + latent), end, TILE):
        at = start + tl.arange(0, TILE)
        valid = at < end
        h, g = tl.load(values + at, mask=valid, other=0), tl.load(d_values + at, mask=valid, other=0)
        gate = tl.where(valid, tl.load(d_gates + at, mask=valid, other=0) + of_gates, 0)
        f = _code(h, factor, bias)
        active = valid & (f != 0)
        g = tl.where(active, g, 0)
        by_scale += g * h
        by_mag += g
        by_gate += gate
        gates += tl.where(valid, h + threshold, 0)
        n_fired += active.to(tl.int32)
        tl.store(values + at, f.to(tl.bfloat16).to(tl.float32), mask=valid)
        tl.store(d_values + at, factor * g + gate, mask=valid)
    tl.store(sum_scale + latent, tl.sum(by_scale, 0))
    tl.store(sum_b_mag + latent, tl.sum(by_mag, 0))
    tl.store(sum_b_gate + latent, tl.sum(by_gate, 0))
    tl.store(fired + latent, tl.sum(n_fired, 0))
    tl.store(sum_gates + latent, tl.sum(gates, 0))
