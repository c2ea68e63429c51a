"""Reconstruction from pairs, its error, and the gradient of each code, in one pass over a row's atoms."""

from typing import no_type_check

import triton
import triton.language as tl
from jaxtyping import BFloat16, Float32
from torch import Tensor

from saev.ops.fused.pairs import Pairs
from saev.ops.fused.shapes import launch, padded, row_warps

ATOMS = 8  # gathered at once


def decode_loss(
    z: Float32[Tensor, "rows d_model"],
    b_dec: Float32[Tensor, " d_model"],
    atoms: BFloat16[Tensor, "d_sae d_model"],
    pairs: Pairs,
    scale: float,
    residual: BFloat16[Tensor, "rows d_model"],
    d_values: Float32[Tensor, " capacity"],
    squared: Float32[Tensor, " rows"],
    k: int = 0,
) -> None:
    """Write z_hat - z, per pair scale * <z_hat - z, atom>, and per row ||z_hat - z||^2.

    With scale = 2 / (tokens * d_model) the second is the gradient of the mean squared error. `k`: the number of entries of each
    row, where it is the same; 0: as `pairs.offsets` say. One program per row, sums in float32 in the order of the pairs: deterministic.
    Atoms are gathered twice, the second time backwards, out of the cache that the first has filled.
    """
    rows, d_model = z.shape
    _decode[(rows,)](
        z, b_dec, atoms, pairs.offsets, pairs.latents, pairs.values, residual, d_values, squared, scale, len(atoms), d_model,
        K=k, ATOMS=min(ATOMS, padded(k)) if k else ATOMS, WIDTH=padded(d_model), **launch(row_warps(d_model)),
    )  # fmt: skip


@triton.jit
@no_type_check
def _decode(
    z, b_dec, atoms, offsets, latents, values, residual, d_values, squared, scale, d_sae, d_model,
    K: tl.constexpr, ATOMS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < d_model
    error = tl.load(b_dec + column, mask=inside, other=0) - tl.load(z + row * d_model + column, mask=inside, other=0)
    if K > 0:  # unrolled, which keeps more loads in flight
        latents, values, d_values = latents + row * K, values + row * K, d_values + row * K
        for start in tl.static_range(0, K, ATOMS):
            f, atom, _ = gathered(atoms, latents, values, start, K, d_sae, d_model, ATOMS, WIDTH)
            error += tl.sum(f[:, None] * atom, 0)
    else:
        first = tl.load(offsets + row)
        n = tl.load(offsets + row + 1) - first
        latents, values, d_values = latents + first, values + first, d_values + first
        for start in range(0, n, ATOMS):
            f, atom, _ = gathered(atoms, latents, values, start, n, d_sae, d_model, ATOMS, WIDTH)
            error += tl.sum(f[:, None] * atom, 0)
    tl.store(residual + row * d_model + column, error.to(tl.bfloat16), mask=inside)
    tl.store(squared + row, tl.sum(error * error, 0))
    if K > 0:
        last: tl.constexpr = (K - 1) // ATOMS * ATOMS
        for back in tl.static_range(0, K, ATOMS):
            if back > 0:  # what was gathered last is still in registers
                f, atom, valid = gathered(atoms, latents, values, last - back, K, d_sae, d_model, ATOMS, WIDTH)
            else:
                f, atom, valid = gathered(atoms, latents, values, last, K, d_sae, d_model, ATOMS, WIDTH)
            tl.store(d_values + last - back + tl.arange(0, ATOMS), tl.sum(atom * error[None, :], 1) * scale, mask=valid)
    else:
        last_start = (n - 1) // ATOMS * ATOMS
        for back in range(0, n, ATOMS):
            start = last_start - back
            f, atom, valid = gathered(atoms, latents, values, start, n, d_sae, d_model, ATOMS, WIDTH)
            tl.store(d_values + start + tl.arange(0, ATOMS), tl.sum(atom * error[None, :], 1) * scale, mask=valid)


@triton.jit
@no_type_check
def gathered(
    atoms, latents, values, start, end, d_sae, d_model, ATOMS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Of the pairs from `start` on, before `end`: (codes, atoms [ATOMS, WIDTH], which of them are pairs); 0 where they are not."""
    at, column = start + tl.arange(0, ATOMS), tl.arange(0, WIDTH)
    latent = tl.load(latents + at, mask=at < end, other=d_sae)
    valid = latent < d_sae
    f = tl.load(values + at, mask=valid, other=0).to(tl.float32)
    mask = valid[:, None] & (column < d_model)[None, :]
    atom = tl.load(atoms + latent.to(tl.int64)[:, None] * d_model + column[None, :], mask=mask, other=0)
    return f, atom.to(tl.float32), valid
