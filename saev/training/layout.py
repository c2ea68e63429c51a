"""Optimiser states in the memory layout of their parameters, which fused optimisers take for granted."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def align_states(state: Mapping[int, dict[str, Any]], parameters: Iterable[nn.Parameter]) -> None:
    """Give each state tensor of a parameter's shape its strides, in place; `state` is numbered as parameters are.

    Equal numbers, in another order: w_enc is stored latent by latent, and a checkpoint put together from several
    processes, or written by another version, need not be.
    """
    for number, parameter in enumerate(parameters):
        entry = state.get(number, {})
        for name, value in entry.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                like = torch.empty_like(parameter, dtype=value.dtype, device=value.device)
                entry[name] = like.copy_(value)
