"""Launches of every GPU kernel of saev/ops, at the sizes of real training steps; on meta tensors nothing is computed.

A new kernel is launched here through the function that launches it in training.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from saev.ops import gpu_sums, gpu_topk
from saev.ops.fused.adam_atoms import AdamState, Rates, Shadows
from saev.ops.fused.batchtopk_pairs import batchtopk_pairs
from saev.ops.fused.buffers import Buffers
from saev.ops.fused.gated_pairs import gated_codes, gated_gradients
from saev.ops.fused.jump_pairs import jump_codes, jump_gradients
from saev.ops.fused.pairs import Pairs
from saev.ops.fused.pairs_beyond import pairs_beyond
from saev.ops.fused.rules import BatchTopKRule, TopKRule
from saev.ops.fused.step import State, decode, fused_step
from saev.ops.fused.transposed import transposed


class Size(NamedTuple):
    """A training step."""

    batch: int
    d_model: int
    d_sae: int
    k: int


SIZES = (Size(16384, 1024, 16384, 32), Size(16384, 384, 6144, 32))
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def launch_all(size: Size, device: torch.device) -> None:
    """Every kernel, with inputs of this size whose values are undefined."""
    _selection(size, device)
    _sums(size, device)
    _fused(size, device)


def _selection(size: Size, device: torch.device) -> None:
    for dtype, k in (*((dtype, size.k) for dtype in DTYPES), (torch.bfloat16, 1)):  # an argument of 1 is compiled in
        gpu_topk.topk(_new(device, size.batch, size.d_sae, dtype=dtype), k)


def _sums(size: Size, device: torch.device) -> None:
    n = size.batch * size.k
    latents, offsets = (_new(device, length, dtype=torch.int64) for length in (n, size.batch + 1))
    half, single, double = torch.bfloat16, torch.float32, torch.float64
    kinds = ((half, half), (half, single), (single, single), (double, double))  # of the table, and of the other factor
    for dtype, other in kinds:
        table = _new(device, size.d_sae, size.d_model, dtype=dtype)
        weights = _new(device, n, dtype=other)
        for many in (False, True):
            for atoms in (table, table[:, :1]):  # of one column: b_enc's gradient
                gpu_sums.weighted_sum(atoms, latents, offsets, weights, many)
        gpu_sums.products(_new(device, size.batch, size.d_model, dtype=other), table, latents, offsets)


def _fused(size: Size, device: torch.device) -> None:
    """A step of TopK, one of Matryoshka, and one on pairs of rows of any length."""
    batch, d_model, d_sae, k = size
    z, buffers, state = _new(device, batch, d_model), Buffers(device), _state(size, device)
    for prefixes in (1, 10):
        ends = [d_sae * (p + 1) // prefixes for p in range(prefixes)]
        fused_step(z, TopKRule(k), state, ends, Rates(3e-4, 1.0, 0.9, 0.999, 1e-8), buffers)
    h, pairs = _new(device, batch, d_sae, dtype=torch.bfloat16), Pairs.empty(batch, batch * k, d_sae, device)
    batchtopk_pairs(h, k, pairs, buffers)
    pairs_beyond(h, _new(device, d_sae), pairs, buffers)
    decode(z, _new(device, batch, d_model, dtype=torch.bfloat16), state, pairs, [d_sae], 1.0, buffers, BatchTopKRule(k))
    codes, d_values, per_latent, scalar = (
        torch.empty_like(pairs.values),
        _new(device, batch * k),
        _new(device, d_sae),
        _new(device),
    )
    by_latent = transposed(pairs, d_values, buffers, d_gates=d_values)
    jump_codes(pairs, per_latent, codes)
    for tanh in (None, (0.1, 2.0)):
        jump_gradients(by_latent, per_latent, scalar, buffers, tanh)
    gated_codes(pairs, per_latent, per_latent, per_latent, codes, codes)
    gated_gradients(by_latent, per_latent, per_latent, per_latent, scalar, buffers)


def _state(size: Size, device: torch.device) -> State:
    shapes = (size.d_sae, size.d_model), (size.d_sae, size.d_model), (size.d_sae,), (size.d_model,)
    states = [AdamState(*(_new(device, *shape) for _ in range(3))) for shape in shapes]
    shadows = Shadows(*(_new(device, *shape, dtype=torch.bfloat16) for shape in shapes[:3]))
    steps = [_new(device) for _ in shapes]
    return State(*states, steps, shadows, _new(device, size.d_sae, dtype=torch.int64))


def _new(device: torch.device, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)
