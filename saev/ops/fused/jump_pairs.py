"""JumpReLU on pairs: codes from pre-activations, and what the gradient of each code gives its latent's threshold.

`pairs_beyond` selects h > theta - epsilon / 2, rounded downwards: active pairs, and those under the threshold's kernel, of code 0.
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


class Thresholds(NamedTuple):
    """Per latent, sums over its pairs in a fixed order."""

    d_code: Float32[
        Tensor, " d_sae"
    ]  # of the codes' gradients, under the kernel: d theta = -theta / epsilon times this
    under: Int32[Tensor, " d_sae"]  # pairs under the kernel: for each, d L0 / d theta = -1 / epsilon
    fired: Int32[Tensor, " d_sae"]  # pairs whose code is not 0
    tanh: Float32[Tensor, " d_sae"]  # of tanh(c * code); 0 without such a penalty


def jump_codes(pairs: Pairs, theta: Float32[Tensor, " d_sae"], out: BFloat16[Tensor, " capacity"]) -> Pairs:
    """The pairs with codes, in `out`, in place of pre-activations: those above the latent's threshold, else 0."""
    _codes[(triton.cdiv(len(out), TILE),)](
        pairs.latents, pairs.values, theta, out, pairs.offsets, pairs.n_rows, TILE=TILE, **launch(4)
    )
    return pairs._replace(values=out)


def jump_gradients(
    by_latent: Transposed,
    theta: Float32[Tensor, " d_sae"],
    epsilon: Float32[Tensor, ""],
    buffers: Buffers,
    tanh: tuple[float, float] | None = None,
) -> Thresholds:
    """Turn pre-activations and the codes' gradients, in place, into codes and the pre-activations' gradients; sum for thresholds.

    `tanh`: (weight, c) of a penalty, the sum over codes of weight * tanh(c * code), whose gradient is added. One program per latent.
    """
    d_sae = len(theta)
    d_code = buffers("d_code", d_sae)
    under, fired = buffers("under", d_sae, dtype=torch.int32), buffers("active", d_sae, dtype=torch.int32)
    weight, c = tanh or (0.0, 0.0)
    penalty = buffers("tanh", d_sae)
    _gradients[(d_sae,)](
        by_latent.offsets, by_latent.values, by_latent.d_values, theta, epsilon, d_code, under, fired, penalty, weight, c,
        TANH=tanh is not None, TILE=TILE, **launch(4),
    )  # fmt: skip
    return Thresholds(d_code, under, fired, penalty)


@triton.jit
@no_type_check
def _codes(latents, values, theta, out, offsets, rows, TILE: tl.constexpr):
    """A program writes TILE codes."""
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    valid = at < tl.load(offsets + rows)
    latent = tl.load(latents + at, mask=valid, other=0)
    h = tl.load(values + at, mask=valid, other=0).to(tl.float32)
    f = tl.where(h > tl.load(theta + latent, mask=valid, other=0), h, 0)
    tl.store(out + at, f.to(tl.bfloat16), mask=valid)


@triton.jit
@no_type_check
def _gradients(
    offsets, values, d_values, theta, epsilon, d_code, under, fired, penalty, weight, c, TANH: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    latent = tl.program_id(0)
    threshold, half = tl.load(theta + latent), tl.load(epsilon) / 2
    tanh = tl.zeros([TILE], tl.float32)
    total, n_under, n_fired = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.int32), tl.zeros([TILE], tl.int32)
    end = tl.load(offsets + latent + 1)
    for start in range(tl.load(offsets + latent), end, TILE):
        at = start + tl.arange(0, TILE)
        valid = at < end
        h, g = tl.load(values + at, mask=valid, other=0), tl.load(d_values + at, mask=valid, other=0)
        f = tl.where(h > threshold, h, 0)
        if TANH:
            e = tl.exp(-2 * c * tl.abs(f))
            g += weight * c * 4 * e / ((1 + e) * (1 + e))  # 1 - tanh^2
            tanh += tl.where(valid, (1 - e) / (1 + e), 0)
        in_kernel = valid & (tl.abs(h - threshold) < half)
        total += tl.where(in_kernel, g, 0)
        n_under += in_kernel.to(tl.int32)
        n_fired += (valid & (f != 0)).to(tl.int32)
        tl.store(values + at, f, mask=valid)
        tl.store(d_values + at, tl.where(h > threshold, g, 0), mask=valid)
    tl.store(d_code + latent, tl.sum(total, 0))
    tl.store(under + latent, tl.sum(n_under, 0))
    tl.store(fired + latent, tl.sum(n_fired, 0))
    tl.store(penalty + latent, tl.sum(tanh, 0))
