"""A stable argsort: by NumPy on a CPU, several times as fast there as torch."""

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor


def order(keys: Int[Tensor, " n"], below: int | None = None) -> Int64[Tensor, " n"]:
    """The indices that sort the keys, stable. With `below` all keys are in [0, below).

    On a CPU: by radix sort below 2^32; without a bound by merging spans, which is fast for keys that are mostly sorted.

    >>> order(torch.tensor([3, 1, 3, 2]))
    tensor([1, 3, 0, 2])
    """
    if keys.device.type != "cpu":  # radix sort there too: the fewest bytes are the fastest
        narrow = next((t for t in (torch.int16, torch.int32) if below and below <= torch.iinfo(t).max), keys.dtype)
        return keys.to(narrow).sort(stable=True).indices
    if below is None or below > 1 << 32:
        return torch.from_numpy(np.argsort(keys.numpy(), kind="stable"))
    indices = np.argsort(keys.numpy().astype(np.uint16), kind="stable")
    if below > 1 << 16:
        indices = indices[np.argsort((keys.numpy()[indices] >> 16).astype(np.uint16), kind="stable")]
    return torch.from_numpy(indices)
