"""The places of numbers in order: by NumPy on a CPU, several times as fast there as torch."""

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor


def order(keys: Int[Tensor, " n"], below: int | None = None) -> Int64[Tensor, " n"]:
    """The places of the numbers in order, equal ones as they stand. `below` bounds the numbers, which are then >= 0.

    On a CPU: below 2^32 by counting digits; without a bound by merging runs, which costs next to nothing where they are in
    order already.

    >>> order(torch.tensor([3, 1, 3, 2]))
    tensor([1, 3, 0, 2])
    """
    if keys.device.type != "cpu":  # a GPU counts digits too: of as few bytes as will do
        narrow = next((t for t in (torch.int16, torch.int32) if below and below <= torch.iinfo(t).max), keys.dtype)
        return keys.to(narrow).sort(stable=True).indices
    if below is None or below > 1 << 32:
        return torch.from_numpy(np.argsort(keys.numpy(), kind="stable"))
    found = np.argsort(keys.numpy().astype(np.uint16), kind="stable")
    if below > 1 << 16:
        found = found[np.argsort((keys.numpy()[found] >> 16).astype(np.uint16), kind="stable")]
    return torch.from_numpy(found)
