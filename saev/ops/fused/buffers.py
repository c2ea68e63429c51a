"""Memory of a step: members of a bank take turns, so that a further member needs no buffers of its own."""

import torch
from torch import Tensor

from saev.ops.fused.pairs import Pairs


class Buffers:
    """Tensors by name, shape and type, zero at first and kept from step to step, as long as the batch has the same size."""

    def __init__(self, device: torch.device):
        self.device, self._rows = device, -1
        self._tensors: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}
        self._pairs: dict[tuple[int, int], Pairs] = {}
        self._uneven: dict[int, Pairs] = {}

    def for_rows(self, rows: int) -> "Buffers":
        """These buffers; those of a batch of another size are freed."""
        if rows != self._rows:
            self._tensors.clear()
            self._pairs.clear()
            self._uneven.clear()
            self._rows = rows
        return self

    def __call__(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The tensor of this name, shape and type, as the last kernel left it."""
        key = (name, shape, dtype)
        if key not in self._tensors:
            self._tensors[key] = torch.zeros(shape, dtype=dtype, device=self.device)
        return self._tensors[key]

    def equal_rows(self, k: int, d_sae: int) -> Pairs:
        """Pairs with k entries for each row of the batch."""
        if (k, d_sae) not in self._pairs:
            self._pairs[k, d_sae] = Pairs.equal_rows(self._rows, k, d_sae, self.device)
        return self._pairs[k, d_sae]

    def any_rows(self, least: int, d_sae: int) -> Pairs:
        """Pairs for rows of any length, at least so many in all: the largest that were asked for."""
        kept = self._uneven.get(d_sae)
        if kept is None or len(kept.latents) < least:
            kept = Pairs.empty(self._rows, least, d_sae, self.device)
            self._uneven[d_sae] = kept
        return kept

    def poison(self) -> None:
        """Fill them with NaN and wrong integers, except what has a meaning from step to step: for tests and checks."""
        for tensor in self._tensors.values():
            tensor.fill_(torch.nan if tensor.dtype.is_floating_point else 2**14 + 1)
        for pairs in (*self._pairs.values(), *self._uneven.values()):
            pairs.latents.fill_(2**14 + 1)
            pairs.values.fill_(torch.nan)
