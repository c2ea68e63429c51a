"""What follows from all gradients of a step: db_dec, the norm, the clip factor, Adam's corrections, the step's numbers; steps b_dec."""

from typing import NamedTuple, no_type_check

import triton
import triton.language as tl
from jaxtyping import BFloat16, Float32, Int32
from torch import Tensor

from saev.ops.fused.adam_atoms import AdamState, Rates, moved
from saev.ops.fused.buffers import Buffers
from saev.ops.fused.pair_gradients import Gradients
from saev.ops.fused.shapes import launch, padded

_PROGRAMS = 256  # parts of the rows and of the latents, at most
_AT_ONCE, _WIDTH = 16, 128  # rows and columns of a tile


class Numbers(NamedTuple):
    """Scalars of a step, on the device."""

    factor: Float32[Tensor, ""]  # of the gradients, from clipping
    size: Float32[Tensor, ""]  # lr / (1 - beta1^step)
    root: Float32[Tensor, ""]  # (1 - beta2^step)^(1/2)
    norm: Float32[Tensor, ""]  # of the gradient before clipping
    loss: Float32[Tensor, ""]  # the mean squared error, over prefixes too; of this process's tokens
    z_mse: Float32[Tensor, ""]  # of the last prefix
    l0: Float32[Tensor, ""]  # active latents per token of the whole batch


def _programs(rows: int, d_sae: int) -> int:
    """The number of parts, a power of two, of at least _AT_ONCE rows or latents."""
    return max(1, min(_PROGRAMS, padded(max(rows, d_sae)) // _AT_ONCE))


def b_dec_gradient(
    residual: BFloat16[Tensor, "rows d_model"],
    encoder: BFloat16[Tensor, "d_sae d_model"],
    g_b_enc: Float32[Tensor, " d_sae"],
    scale: float,
    buffers: Buffers,
) -> Float32[Tensor, " d_model"]:
    """In a buffer: scale * sum of residuals - db_enc @ encoder, which is what z - b_dec passes on."""
    (rows, d_model), d_sae = residual.shape, len(encoder)
    n = _programs(rows, d_sae)
    parts, out = buffers("parts of b_dec", n, d_model), buffers("gradient of b_dec", d_model)
    _column_parts[(n, triton.cdiv(d_model, _WIDTH))](
        residual, encoder, g_b_enc, parts, scale, rows, d_sae, d_model, triton.cdiv(rows, n), triton.cdiv(d_sae, n),
        AT_ONCE=_AT_ONCE, WIDTH=_WIDTH, **launch(1),
    )  # fmt: skip
    _columns[(triton.cdiv(d_model, 16),)](parts, out, d_model, PARTS=n, WIDTH=16, **launch(4))
    return out


def finish(
    gradients: Gradients,
    g_b_dec: Float32[Tensor, " d_model"],
    b_dec: AdamState,
    steps: list[Float32[Tensor, ""]],
    squared: Float32[Tensor, " rows"],
    last: Float32[Tensor, " rows"],
    fired: Int32[Tensor, " d_sae"],
    prefixes: int,
    tokens: int,
    rates: Rates,
    buffers: Buffers,
) -> Float32[Tensor, " numbers"]:
    """Step b_dec, count one in Adam's `steps` (of four parameters, equal), and return `Numbers` in a buffer. `squared` and `last` are sums
    over dimensions, `tokens` those of all processes.

    The norm is of the gradients of which the atoms' part along the atoms is removed (these have unit norm), as it is clipped. Sums are
    in a fixed order, by programs that take neighbouring rows and latents: deterministic.
    """
    (chunks, d_sae), rows, d_model = gradients.squares.shape, len(squared), len(g_b_dec)
    n = _programs(rows, d_sae)
    parts, numbers = buffers("parts of numbers", 4, n), buffers("numbers", len(Numbers._fields))
    of_rows, of_latents = triton.cdiv(rows, n), triton.cdiv(d_sae, n)
    _number_parts[(n,)](
        gradients.b_enc, gradients.squares, gradients.dots, squared, last, fired, parts, rows, d_sae, of_rows, of_latents, chunks,
        ROWS=padded(of_rows), LATENTS=padded(of_latents), PARTS=n, **launch(1),
    )  # fmt: skip
    _finish[(1,)](
        parts, g_b_dec, *b_dec, steps[0], steps[1], steps[2], steps[3], numbers, rates.lr, rates.clip,
        1 / (rows * d_model * prefixes), 1 / (rows * d_model), 1 / tokens, d_model,
        PARTS=n, WIDTH=padded(d_model), BETA1=rates.beta1, BETA2=rates.beta2, EPS=rates.eps, **launch(4),
    )  # fmt: skip
    return numbers


@triton.jit
@no_type_check
def _column_parts(
    residual, encoder, g_b_enc, parts, scale, n_rows, d_sae, d_model, of_rows, of_latents,
    AT_ONCE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One part of the rows and of the latents, and a stretch of columns."""
    part, column = tl.program_id(0), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside, some = column < d_model, tl.arange(0, AT_ONCE)
    up, down = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    row_end = tl.minimum(n_rows, (part + 1) * of_rows)
    for start in range(part * of_rows, row_end, AT_ONCE):
        row = start + some
        at = row.to(tl.int64)[:, None] * d_model + column[None, :]
        up += tl.sum(tl.load(residual + at, mask=(row < row_end)[:, None] & inside[None, :], other=0).to(tl.float32), 0)
    latent_end = tl.minimum(d_sae, (part + 1) * of_latents)
    for start in range(part * of_latents, latent_end, AT_ONCE):
        latent = start + some
        g = tl.load(g_b_enc + latent, mask=latent < latent_end, other=0)
        at = latent.to(tl.int64)[:, None] * d_model + column[None, :]
        w = tl.load(encoder + at, mask=(latent < latent_end)[:, None] & inside[None, :], other=0).to(tl.float32)
        down += tl.sum(g[:, None] * w, 0)
    tl.store(parts + part * d_model + column, up * scale - down, mask=inside)


@triton.jit
@no_type_check
def _columns(parts, out, d_model, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """The sum of all parts, for WIDTH columns."""
    column = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    at, inside = tl.arange(0, PARTS)[:, None] * d_model + column[None, :], column < d_model
    tl.store(out + column, tl.sum(tl.load(parts + at, mask=(at >= 0) & inside[None, :], other=0), 0), mask=inside)


@triton.jit
@no_type_check
def _number_parts(
    g_b_enc, squares, dots, squared, last, fired, parts, n_rows, d_sae, of_rows, of_latents, chunks,
    ROWS: tl.constexpr, LATENTS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One part of the latents, for the squared norm and the number of pairs, and of the rows, for the errors."""
    part = tl.program_id(0)
    latent = part * of_latents + tl.arange(0, LATENTS)
    valid = (tl.arange(0, LATENTS) < of_latents) & (latent < d_sae)
    bias = tl.load(g_b_enc + latent, mask=valid, other=0)
    square, dot = tl.zeros([LATENTS], tl.float32), tl.zeros([LATENTS], tl.float32)
    for chunk in range(chunks):
        square += tl.load(squares + chunk * d_sae + latent, mask=valid, other=0)
        dot += tl.load(dots + chunk * d_sae + latent, mask=valid, other=0)
    square -= dot * dot
    square = tl.where(square < 0, 0, square)  # by rounding; NaN stays NaN
    tl.store(parts + part, tl.sum(square + bias * bias, 0))
    row = part * of_rows + tl.arange(0, ROWS)
    valid_row = (tl.arange(0, ROWS) < of_rows) & (row < n_rows)
    tl.store(parts + PARTS + part, tl.sum(tl.load(squared + row, mask=valid_row, other=0), 0))
    tl.store(parts + 2 * PARTS + part, tl.sum(tl.load(last + row, mask=valid_row, other=0), 0))
    n = tl.sum(tl.load(fired + latent, mask=valid, other=0), 0)
    tl.store(parts + 3 * PARTS + part, n.to(tl.float32))


@triton.jit
@no_type_check
def _finish(
    parts, gradient, weight, m, v, step_a, step_b, step_c, step_d, numbers, lr, clip, loss_mean, last_mean, fired_mean, d_model,
    PARTS: tl.constexpr, WIDTH: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """One program."""
    column, part = tl.arange(0, WIDTH), tl.arange(0, PARTS)
    inside = column < d_model
    g = tl.load(gradient + column, mask=inside, other=0)
    norm = tl.sqrt(tl.sum(tl.load(parts + part), 0) + tl.sum(g * g, 0))
    ratio = clip / (norm + 1e-6)
    factor = tl.where(ratio < 1, ratio, tl.where(norm == norm, 1.0, norm))  # NaN stays NaN
    step = tl.load(step_a) + 1
    size = (lr / (1 - _power(BETA1, step))).to(tl.float32)
    root = tl.sqrt((1 - _power(BETA2, step)).to(tl.float32))
    tl.debug_barrier()
    tl.store(step_a, step)
    tl.store(step_b, step)
    tl.store(step_c, step)
    tl.store(step_d, step)
    tl.store(numbers, factor)
    tl.store(numbers + 1, size)
    tl.store(numbers + 2, root)
    tl.store(numbers + 3, norm)
    tl.store(numbers + 4, tl.sum(tl.load(parts + PARTS + part), 0) * loss_mean)
    tl.store(numbers + 5, tl.sum(tl.load(parts + 2 * PARTS + part), 0) * last_mean)
    tl.store(numbers + 6, tl.sum(tl.load(parts + 3 * PARTS + part), 0) * fired_mean)
    w, new_m, new_v = moved(
        tl.load(weight + column, mask=inside, other=0), tl.load(m + column, mask=inside, other=0),
        tl.load(v + column, mask=inside, other=0), g * factor, size, root, BETA1, BETA2, EPS,
    )  # fmt: skip
    tl.store(weight + column, w, mask=inside)
    tl.store(m + column, new_m, mask=inside)
    tl.store(v + column, new_v, mask=inside)


@triton.jit
@no_type_check
def _power(BASE: tl.constexpr, exponent):
    """BASE^exponent in float64, of a whole number, by squaring: 1 - 0.999^1 has four digits in float32."""
    n = exponent.to(tl.int32)
    result, base = tl.full([], 1.0, tl.float64), tl.full([], BASE, tl.float64)
    while n > 0:
        result = tl.where(n % 2 == 1, result * base, result)
        base *= base
        n = n // 2
    return result
