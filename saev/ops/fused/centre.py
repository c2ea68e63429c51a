"""z - b_dec in bfloat16: the encoder's input, read again by the encoder's gradient."""

from typing import no_type_check

import triton
import triton.language as tl
from jaxtyping import BFloat16, Float32
from torch import Tensor

from saev.ops.fused.shapes import launch, padded

_ROWS = 4  # of a program


def centre(
    z: Float32[Tensor, "rows d_model"], b_dec: Float32[Tensor, " d_model"], out: BFloat16[Tensor, "rows d_model"]
) -> None:
    """Write z - b_dec to `out`."""
    rows, d_model = z.shape
    _centre[(triton.cdiv(rows, _ROWS),)](z, b_dec, out, rows, d_model, ROWS=_ROWS, WIDTH=padded(d_model), **launch(4))


@triton.jit
@no_type_check
def _centre(z, b_dec, out, n_rows, d_model, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """A program writes ROWS rows."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    at = row.to(tl.int64)[:, None] * d_model + column[None, :]
    inside = (row < n_rows)[:, None] & (column < d_model)[None, :]
    centred = tl.load(z + at, mask=inside, other=0) - tl.load(b_dec + column, mask=column < d_model, other=0)[None, :]
    tl.store(out + at, centred.to(tl.bfloat16), mask=inside)
