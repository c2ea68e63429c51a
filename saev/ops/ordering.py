"""The places of numbers in order: by NumPy on a CPU, several times as fast there as torch."""

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor


def order(keys: Int[Tensor, " n"], below: int | None = None) -> Int64[Tensor, " n"]:
    """The places of the numbers in order, equal ones as they stand. `below` bounds the numbers, which are then >= 0.

    On a CPU: below 65536 by counting digits; else by merging runs, which costs next to nothing where they are in order already.

    >>> order(torch.tensor([3, 1, 3, 2]))
    tensor([1, 3, 0, 2])
    """
    if keys.device.type != "cpu":
        return keys.sort(stable=True).indices
    narrow = keys.numpy().astype(np.uint16) if below is not None and below <= 1 << 16 else keys.numpy()
    return torch.from_numpy(np.argsort(narrow, kind="stable"))
