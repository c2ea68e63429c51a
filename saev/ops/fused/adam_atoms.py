"""The parameters' step in one pass: the atoms' parallel gradient removed, clipping, Adam, unit norm, bfloat16 shadows."""

from typing import NamedTuple, no_type_check

import triton
import triton.language as tl
from jaxtyping import BFloat16, Float32, Int32, Int64
from torch import Tensor

from saev.ops.fused.pair_gradients import Gradients
from saev.ops.fused.shapes import atom_warps, launch, padded


class AdamState(NamedTuple):
    """A parameter and its moments, those of torch.optim.Adam."""

    weight: Float32[Tensor, "..."]
    m: Float32[Tensor, "..."]
    v: Float32[Tensor, "..."]


class Rates(NamedTuple):
    """Settings of Adam and of clipping."""

    lr: float
    clip: float
    beta1: float
    beta2: float
    eps: float


class Shadows(NamedTuple):
    """The bfloat16 copies of parameters that products and gathers read."""

    atoms: BFloat16[Tensor, "d_sae d_model"]
    encoder: BFloat16[Tensor, "d_sae d_model"]
    b_enc: BFloat16[Tensor, " d_sae"]


def adam_atoms(
    atoms: AdamState,
    encoder: AdamState,
    b_enc: AdamState,
    gradients: Gradients,
    shadows: Shadows,
    numbers: Float32[Tensor, " numbers"],
    fired: Int32[Tensor, " d_sae"],
    tokens_since_fired: Int64[Tensor, " d_sae"],
    tokens: int,
    rates: Rates,
) -> None:
    """Step the three parameters of latents in place and write their shadows; count tokens since each latent fired.

    `numbers` are those of `finish`: factor, step size, root of the second correction. Gradients are read, not changed.
    One program per atom and one per row of the encoder, each of which reads and writes its own row alone.
    """
    d_sae, d_model = gradients.atoms.shape
    _step[(2 * d_sae,)](
        *atoms, gradients.atoms, shadows.atoms, *encoder, gradients.encoder, shadows.encoder, *b_enc, gradients.b_enc, shadows.b_enc,
        numbers, fired, tokens_since_fired, tokens, d_sae, d_model,
        WIDTH=padded(d_model), BETA1=rates.beta1, BETA2=rates.beta2, EPS=rates.eps, **launch(atom_warps(d_model)),
    )  # fmt: skip


@triton.jit
@no_type_check
def _step(
    atoms, m_atoms, v_atoms, g_atoms, s_atoms, encoder, m_encoder, v_encoder, g_encoder, s_encoder,
    bias, m_bias, v_bias, g_bias, s_bias, numbers, fired, tokens_since_fired, tokens, d_sae, d_model,
    WIDTH: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Programs below d_sae: an atom. From there on: a row of the encoder with its bias and its count of tokens."""
    program, column = tl.program_id(0), tl.arange(0, WIDTH)
    factor, size, root = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    inside = column < d_model
    if program < d_sae:
        at = program.to(tl.int64) * d_model + column
        w, g = tl.load(atoms + at, mask=inside, other=0), tl.load(g_atoms + at, mask=inside, other=0)
        m, v = tl.load(m_atoms + at, mask=inside, other=0), tl.load(v_atoms + at, mask=inside, other=0)
        g = (g - tl.sum(g * w, 0) * w) * factor
        w, m, v = moved(w, m, v, g, size, root, BETA1, BETA2, EPS)
        w = w / tl.maximum(tl.sqrt(tl.sum(w * w, 0)), 1e-12)
        tl.store(atoms + at, w, mask=inside)
        tl.store(m_atoms + at, m, mask=inside)
        tl.store(v_atoms + at, v, mask=inside)
        tl.store(s_atoms + at, w.to(tl.bfloat16), mask=inside)
    else:
        latent = program - d_sae
        at = latent.to(tl.int64) * d_model + column
        w, g = tl.load(encoder + at, mask=inside, other=0), tl.load(g_encoder + at, mask=inside, other=0)
        m, v = tl.load(m_encoder + at, mask=inside, other=0), tl.load(v_encoder + at, mask=inside, other=0)
        w, m, v = moved(w, m, v, g * factor, size, root, BETA1, BETA2, EPS)
        tl.store(encoder + at, w, mask=inside)
        tl.store(m_encoder + at, m, mask=inside)
        tl.store(v_encoder + at, v, mask=inside)
        tl.store(s_encoder + at, w.to(tl.bfloat16), mask=inside)
        b, m1, v1 = moved(
            tl.load(bias + latent), tl.load(m_bias + latent), tl.load(v_bias + latent), tl.load(g_bias + latent) * factor,
            size, root, BETA1, BETA2, EPS,
        )  # fmt: skip
        since = tl.where(tl.load(fired + latent) == 0, tl.load(tokens_since_fired + latent) + tokens, 0)
        tl.debug_barrier()
        tl.store(bias + latent, b)
        tl.store(m_bias + latent, m1)
        tl.store(v_bias + latent, v1)
        tl.store(s_bias + latent, b.to(tl.bfloat16))
        tl.store(tokens_since_fired + latent, since)


@triton.jit
@no_type_check
def moved(w, m, v, g, size, root, BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr):
    """(weight, first moment, second moment) after a step of Adam with this gradient."""
    m += (1 - BETA1) * (g - m)
    v = BETA2 * v + (1 - BETA2) * g * g
    return w - size * m / (tl.sqrt(v) / root + EPS), m, v
