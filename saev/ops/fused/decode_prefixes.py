"""`decode_loss` of nested prefixes of the dictionary: the mean of their squared errors."""

from typing import no_type_check

import triton
import triton.language as tl
from jaxtyping import BFloat16, Float32, Int32
from torch import Tensor

from saev.ops.fused.decode_loss import gathered
from saev.ops.fused.pairs import Pairs
from saev.ops.fused.shapes import launch, padded, row_warps

ATOMS = 4  # gathered at once: beside them three more rows are in registers


def decode_prefixes(
    z: Float32[Tensor, "rows d_model"],
    b_dec: Float32[Tensor, " d_model"],
    atoms: BFloat16[Tensor, "d_sae d_model"],
    pairs: Pairs,
    ends: Int32[Tensor, " prefixes"],
    scale: float,
    residuals: BFloat16[Tensor, "prefixes rows d_model"],
    d_values: Float32[Tensor, " capacity"],
    squared: Float32[Tensor, " rows"],
    last: Float32[Tensor, " rows"],
) -> None:
    """Write the residuals' suffix sums, the gradient of each code, and per row the sum of squared errors and the last one.

    `ends`: the number of latents of each prefix, ascending to d_sae. residuals[p] is the sum of z_hat - z of the prefixes p, p + 1, ...:
    what the latents between the ends p - 1 and p learn from; residuals[0] is what b_dec learns from. Per pair scale * <that, its
    atom>; with scale = 2 / (tokens * d_model * prefixes) this is the gradient of the mean over prefixes of the mean squared errors.

    One program per row. Latents ascend in a row, so that the pairs of a group are neighbours. First it adds up group by
    group, for the errors; then it subtracts them again from the last to the first, for the suffix sums. The order is fixed: deterministic.
    """
    (rows, d_model), prefixes = z.shape, len(ends)
    _decode[(rows,)](
        z, b_dec, atoms, pairs.offsets, pairs.latents, pairs.values, ends, residuals, d_values, squared, last, scale,
        rows, len(atoms), d_model, prefixes, ATOMS=ATOMS, WIDTH=padded(d_model), **launch(row_warps(d_model)),
    )  # fmt: skip


@triton.jit
@no_type_check
def _decode(
    z, b_dec, atoms, offsets, latents, values, ends, residuals, d_values, squared, last_squared, scale,
    n_rows, d_sae, d_model, prefixes, ATOMS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < d_model
    offset = tl.load(offsets + row)
    n = tl.load(offsets + row + 1) - offset
    latents, values, d_values = latents + offset, values + offset, d_values + offset
    error = tl.load(b_dec + column, mask=inside, other=0) - tl.load(z + row * d_model + column, mask=inside, other=0)
    squares, latest = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    first = n * 0
    for prefix in range(prefixes):
        end = _first_from(latents, first, n, tl.load(ends + prefix))
        for start in range(first, end, ATOMS):
            f, atom, _ = gathered(atoms, latents, values, start, end, d_sae, d_model, ATOMS, WIDTH)
            error += tl.sum(f[:, None] * atom, 0)
        latest = error * error
        squares += latest
        first = end
    tl.store(squared + row, tl.sum(squares, 0))
    tl.store(last_squared + row, tl.sum(latest, 0))
    total = tl.zeros([WIDTH], tl.float32)
    end = first  # without padding
    for back in range(prefixes):
        prefix = prefixes - 1 - back
        first = _first_from(latents, n * 0, end, tl.load(ends + prefix - 1, mask=prefix > 0, other=0))
        total += error
        tl.store(residuals + (prefix * n_rows + row) * d_model + column, total.to(tl.bfloat16), mask=inside)
        for start in range(first, end, ATOMS):
            f, atom, valid = gathered(atoms, latents, values, start, end, d_sae, d_model, ATOMS, WIDTH)
            tl.store(d_values + start + tl.arange(0, ATOMS), tl.sum(atom * total[None, :], 1) * scale, mask=valid)
            error -= tl.sum(f[:, None] * atom, 0)
        end = first


@triton.jit
@no_type_check
def _first_from(latents, low, high, end):
    """The first index in [low, high) whose latent is at least `end`, else `high`; latents ascend. By bisection."""
    while low < high:
        middle = (low + high) // 2
        before = tl.load(latents + middle) < end
        low = tl.where(before, middle + 1, low)
        high = tl.where(before, high, middle)
    return low
