"""Bins of a number's own bits: as wide as the last kept bit of its mantissa, so that scaling by a power of two moves none.

A float32 read as an integer is in order of magnitude; with its sign folded in it is in order of value. Shifting s bits out
leaves sign, 8 bits of exponent and 23 - s of mantissa: 2^(23 - s) bins to an octave. s = 0 gives every float its own bin.
"""

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

MANTISSA = 23  # bits of a float32


def ordered(values: Float[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Integers in the order of the values (as float32): negative for negative ones, -1 - ordered(x) for -x.

    >>> ordered(torch.tensor([-1.0, -1e-45, 0.0, 1e-45, 1.0])).tolist()
    [-1065353217, -2, 0, 1, 1065353216]
    """
    bits = values.float().contiguous().view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def floats(integers: Int64[Tensor, " n"]) -> Float32[Tensor, " n"]:
    """The numbers that `ordered` made these of."""
    return (integers ^ ((integers >> 31) & 0x7FFFFFFF)).int().view(torch.float32)


def lower_edges(keys: Int64[Tensor, " n"], mantissa_bits: int) -> Float64[Tensor, " n"]:
    """The smallest number of each bin, other than 0: a value is in the bin or above it exactly if it is >= the edge."""
    lowest = keys << (MANTISSA - mantissa_bits)
    return floats(torch.where(keys == 0, 1, lowest)).double()


def checked(mantissa_bits: int) -> int:
    """ValueError unless it is a number of bits that a float32's mantissa has."""
    if not 0 <= mantissa_bits <= MANTISSA:
        raise ValueError(
            f"mantissa_bits={mantissa_bits}: choose 0 (octaves) to {MANTISSA} (every float32 a bin of its own)."
        )
    return mantissa_bits
