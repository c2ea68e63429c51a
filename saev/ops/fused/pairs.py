"""Codes of a batch as pairs (latent, code), row by row: what selection writes and the other kernels of a step read."""

from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Float, Int32
from torch import Tensor

ROWS = 128  # rows of a block, for which pairs are counted per latent


class Pairs(NamedTuple):
    """Row r has the pairs offsets[r]:offsets[r + 1]; what follows the last row is undefined.

    Latents ascend within a row. A row that has fewer pairs than entries, as in TopK where fewer than k pre-activations are
    positive, is padded at its end: the latent d_sae, the value 0. Every kernel skips these, whatever the value; other values may
    be 0 as well (JumpReLU has pairs under the kernel of its threshold).
    """

    offsets: Int32[Tensor, " rows_and_1"]
    latents: Int32[Tensor, " capacity"]
    values: BFloat16[Tensor, " capacity"]
    # Per block of ROWS rows and latent its number of pairs. Selection adds to it by integer atomics, whose result has no order;
    # the transposition reads it and leaves zeros for the next step.
    counts: Int32[Tensor, "blocks d_sae"]

    @classmethod
    def empty(cls, rows: int, capacity: int, d_sae: int, device: torch.device) -> "Pairs":
        """Buffers for at most `capacity` pairs; offsets and counts are 0."""
        return cls(
            torch.zeros(rows + 1, dtype=torch.int32, device=device),
            torch.empty(capacity, dtype=torch.int32, device=device),
            torch.empty(capacity, dtype=torch.bfloat16, device=device),
            torch.zeros(-(-rows // ROWS), d_sae, dtype=torch.int32, device=device),
        )

    @classmethod
    def equal_rows(cls, rows: int, k: int, d_sae: int, device: torch.device) -> "Pairs":
        """Buffers for k pairs in each row."""
        offsets = torch.arange(0, rows * k + 1, k, dtype=torch.int32, device=device)
        return cls.empty(rows, rows * k, d_sae, device)._replace(offsets=offsets)

    @property
    def n_rows(self) -> int:
        """The number of rows, empty ones included."""
        return len(self.offsets) - 1

    @property
    def d_sae(self) -> int:
        """The number of latents."""
        return self.counts.shape[1]

    def dense(self) -> Float[Tensor, "rows d_sae"]:
        """The same codes as a float32 matrix, for tests and checks; synchronises."""
        n = int(self.offsets[-1])
        rows = torch.repeat_interleave(self.offsets.diff())
        out = torch.zeros(self.n_rows, self.d_sae + 1, device=self.values.device)
        out[rows, self.latents[:n].long()] = self.values[:n].float()
        return out[:, :-1]
