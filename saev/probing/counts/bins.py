"""Bins of float32 values: those with the same sign, exponent and leading bits of the mantissa.

The bits of a float32, with the sign folded in, are an integer in the order of the values. Dropping its last s bits leaves
2^(23 - s) bins per octave; with s = 0 every float has a bin. Scaling by a power of two does not change the bins.
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
    """The inverse of `ordered`."""
    return (integers ^ ((integers >> 31) & 0x7FFFFFFF)).int().view(torch.float32)


def lower_edges(keys: Int64[Tensor, " n"], mantissa_bits: int) -> Float64[Tensor, " n"]:
    """The smallest non-zero number of each bin: a value lies in the bin or above exactly if it is >= the edge."""
    lowest = keys << (MANTISSA - mantissa_bits)
    return floats(torch.where(keys == 0, 1, lowest)).double()


def checked(mantissa_bits: int) -> int:
    """ValueError unless it is a number of bits that a float32's mantissa has."""
    if not 0 <= mantissa_bits <= MANTISSA:
        raise ValueError(
            f"mantissa_bits={mantissa_bits}: choose 0 (octaves) to {MANTISSA} (every float32 a bin of its own)."
        )
    return mantissa_bits
