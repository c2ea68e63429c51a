"""Gradients of both weights and of b_enc from pairs by latent: per latent two weighted sums of rows, in one pass."""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import BFloat16, Float32, Int32, Int64
from torch import Tensor

from saev.ops.fused.buffers import Buffers
from saev.ops.fused.shapes import launch
from saev.ops.fused.transposed import SPLIT, Transposed


class Gradients(NamedTuple):
    """Of one step; and per stretch of columns and latent what the norm is computed from."""

    atoms: Float32[Tensor, "d_sae d_model"]
    encoder: Float32[Tensor, "d_sae d_model"]
    b_enc: Float32[Tensor, " d_sae"]
    squares: Float32[Tensor, "chunks d_sae"]  # of the two weights' gradients
    dots: Float32[
        Tensor, "chunks d_sae"
    ]  # of the atoms' gradients with the atoms; of bfloat16 ones the norm would be a per cent off

    @torch.no_grad()
    def renew(self, latents: Int64[Tensor, " n"] | slice, atoms: Float32[Tensor, "d_sae d_model"]) -> None:
        """Compute `squares` and `dots` of these latents again, after their gradients were changed."""
        dec, enc = self.atoms[latents], self.encoder[latents]
        self.squares[:, latents] = 0
        self.dots[:, latents] = 0
        self.squares[0, latents] = torch.linalg.vecdot(dec, dec) + torch.linalg.vecdot(enc, enc)
        self.dots[0, latents] = torch.linalg.vecdot(dec, atoms[latents])


def pair_gradients(
    residuals: BFloat16[Tensor, "prefixes rows d_model"],
    centred: BFloat16[Tensor, "rows d_model"],
    atoms: Float32[Tensor, "d_sae d_model"],
    by_latent: Transposed,
    scale: float,
    buffers: Buffers,
    ends: Int32[Tensor, " prefixes"] | None = None,
) -> Gradients:
    """In buffers: scale * sum of code * residual for atoms, sum of d_code * (z - b_dec) for the encoder, sum of d_code for b_enc.

    A latent between the ends p - 1 and p of nested prefixes takes residuals[p]; `ends` None: there is one prefix.

    A program sums at most SPLIT pairs of a latent over a stretch of columns; the latents with more have further programs, at most
    capacity / SPLIT, which write parts that a second kernel adds up in order: deterministic, without atomics. The grid goes
    through all latents for one stretch before the next, so that its columns of both tables fit into the L2 cache.
    """
    d_sae, d_model = atoms.shape
    pairs, width = (4, 512) if d_model > 512 else (8, 128)
    chunks, extra = triton.cdiv(d_model, width), len(by_latent.rows) // SPLIT
    gradients = Gradients(
        buffers("gradient of atoms", d_sae, d_model), buffers("gradient of encoder", d_sae, d_model), buffers("gradient of b_enc", d_sae),
        buffers("squares", chunks, d_sae), buffers("dots", chunks, d_sae),
    )  # fmt: skip
    parts, bias_parts = buffers("parts", extra, 2, d_model), buffers("parts of b_enc", extra)
    _gradients[(extra + d_sae, chunks)](
        residuals, centred, atoms, by_latent.rows, by_latent.values, by_latent.d_values, by_latent.offsets, by_latent.extra,
        *gradients, parts, bias_parts, by_latent.offsets if ends is None else ends, scale, len(centred), d_sae, d_model,
        1 if ends is None else len(ends), extra, SPLIT=SPLIT, PAIRS=pairs, WIDTH=width, **launch(1),
    )  # fmt: skip
    if extra:
        _add_parts[(extra, chunks)](
            atoms, by_latent.extra, *gradients, parts, bias_parts, d_sae, d_model, WIDTH=width, **launch(1)
        )
    return gradients


@triton.jit
@no_type_check
def _gradients(
    residuals, centred, atoms, rows, values, d_values, offsets, extra_offsets,
    g_atoms, g_encoder, g_bias, squares, dots, parts, bias_parts, ends, scale, n_rows, d_sae, d_model, prefixes, n_extra,
    SPLIT: tl.constexpr, PAIRS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A latent's first SPLIT pairs, or, by the first `n_extra` programs, a later segment: these are the long ones, so they start first."""
    program, column = tl.program_id(0), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < d_model
    latent, segment, exists = program - n_extra, program * 0, program >= n_extra
    if program < n_extra:
        exists = program < tl.load(extra_offsets + d_sae)
        latent = _latent_of(extra_offsets, program, d_sae)
        segment = program - tl.load(extra_offsets + latent) + 1
    first, end = tl.load(offsets + latent) + segment * SPLIT, tl.load(offsets + latent + 1)
    end = tl.where(exists, tl.minimum(end, first + SPLIT), first)
    prefix = latent * 0
    for p in range(prefixes - 1):
        prefix += (tl.load(ends + p) <= latent).to(tl.int32)
    residuals += prefix.to(tl.int64) * n_rows * d_model
    dec, enc, bias = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32), tl.zeros([PAIRS], tl.float32)
    for start in range(first, end, PAIRS):
        pair = start + tl.arange(0, PAIRS)
        valid = pair < end
        row = tl.load(rows + pair, mask=valid, other=0)
        f, g = tl.load(values + pair, mask=valid, other=0), tl.load(d_values + pair, mask=valid, other=0)
        at = row.to(tl.int64)[:, None] * d_model + column[None, :]
        mask = valid[:, None] & inside[None, :]
        dec += tl.sum(f[:, None] * tl.load(residuals + at, mask=mask, other=0).to(tl.float32), 0)
        enc += tl.sum(g[:, None] * tl.load(centred + at, mask=mask, other=0).to(tl.float32), 0)
        bias += g
    dec *= scale
    leads = tl.program_id(1) == 0
    if program < n_extra:
        if exists:
            tl.store(parts + program * 2 * d_model + column, dec, mask=inside)
            tl.store(parts + (program * 2 + 1) * d_model + column, enc, mask=inside)
            tl.store(bias_parts + program, tl.sum(bias, 0), mask=leads)
    else:
        at = latent.to(tl.int64) * d_model + column
        tl.store(g_atoms + at, dec, mask=inside)
        tl.store(g_encoder + at, enc, mask=inside)
        tl.store(g_bias + latent, tl.sum(bias, 0), mask=leads)
        atom = tl.load(atoms + at, mask=inside, other=0)
        tl.store(squares + tl.program_id(1) * d_sae + latent, tl.sum(dec * dec + enc * enc, 0))
        tl.store(dots + tl.program_id(1) * d_sae + latent, tl.sum(dec * atom, 0))


@triton.jit
@no_type_check
def _add_parts(
    atoms, extra_offsets, g_atoms, g_encoder, g_bias, squares, dots, parts, bias_parts, d_sae, d_model, WIDTH: tl.constexpr
):  # fmt: skip
    """The program of a latent's second segment adds this and the later ones to the first, in order."""
    program, column = tl.program_id(0), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < d_model
    if program < tl.load(extra_offsets + d_sae):
        latent = _latent_of(extra_offsets, program, d_sae)
        if program == tl.load(extra_offsets + latent):
            at = latent.to(tl.int64) * d_model + column
            dec = tl.load(g_atoms + at, mask=inside, other=0)
            enc = tl.load(g_encoder + at, mask=inside, other=0)
            for part in range(program, tl.load(extra_offsets + latent + 1)):
                dec += tl.load(parts + part * 2 * d_model + column, mask=inside, other=0)
                enc += tl.load(parts + (part * 2 + 1) * d_model + column, mask=inside, other=0)
            tl.store(g_atoms + at, dec, mask=inside)
            tl.store(g_encoder + at, enc, mask=inside)
            atom = tl.load(atoms + at, mask=inside, other=0)
            tl.store(squares + tl.program_id(1) * d_sae + latent, tl.sum(dec * dec + enc * enc, 0))
            tl.store(dots + tl.program_id(1) * d_sae + latent, tl.sum(dec * atom, 0))
            if tl.program_id(1) == 0:
                bias = tl.load(g_bias + latent)
                for part in range(program, tl.load(extra_offsets + latent + 1)):
                    bias += tl.load(bias_parts + part)
                tl.store(g_bias + latent, bias)


@triton.jit
@no_type_check
def _latent_of(extra_offsets, segment, d_sae):
    """The latent that this further segment belongs to, by bisection."""
    low, high = segment * 0, segment * 0 + d_sae
    while high - low > 1:
        middle = (low + high) // 2
        before = tl.load(extra_offsets + middle) <= segment
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    return low
