"""Codes of a few latents as columns; a negatively associated latent is sign-flipped, so that larger means more likely."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from saev.ops.sparse import SparseCodes


@dataclass(frozen=True)
class Columns:
    """Column j is `signs[j]` times the code of `latents[j]`; `of_class[c]` is the column of class c, -1 for none."""

    latents: Int64[Tensor, " columns"]
    signs: Int64[Tensor, " columns"]
    of_class: Int64[Tensor, " classes"]
    n_latents: int

    @classmethod
    def choose(cls, best: Int64[Tensor, " classes"], slope: Float64[Tensor, " classes"], n_latents: int) -> "Columns":
        """The columns of each class's latent `best` (-1: none), sign-flipped where its `slope` is negative.

        >>> best, slope = torch.tensor([4, -1, 4, 4]), torch.tensor([2.0, 0.0, -1.0, 3.0], dtype=torch.float64)
        >>> columns = Columns.choose(best, slope, 5)
        >>> columns.latents.tolist(), columns.signs.tolist(), columns.of_class.tolist()
        ([4, 4], [1, -1], [0, -1, 1, 0])
        """
        key = 2 * best + (slope < 0)
        distinct, of_class = torch.unique(key[best >= 0], return_inverse=True)
        column = torch.full_like(best, -1)
        column[best >= 0] = of_class
        return cls(distinct // 2, 1 - 2 * (distinct % 2), column, n_latents)

    def __len__(self) -> int:
        return len(self.latents)

    def select(self, codes: SparseCodes) -> SparseCodes:
        """The columns of a batch of codes."""
        n_rows, device = len(codes.offsets) - 1, codes.values.device
        row = torch.repeat_interleave(codes.offsets.diff().to(device), output_size=len(codes.latents))
        rows, columns, values = [], [], []
        for sign in (1, -1):
            column_of = torch.full((self.n_latents,), -1, device=device)
            signed = (self.signs == sign).nonzero()[:, 0]
            column_of[self.latents[signed].to(device)] = signed.to(device)
            column = column_of[codes.latents.long()]
            kept = column >= 0
            rows.append(row[kept])
            columns.append(column[kept])
            values.append(sign * codes.values[kept])
        order = torch.argsort(torch.cat(rows), stable=True)
        counts = torch.bincount(torch.cat(rows), minlength=n_rows)
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        return SparseCodes(offsets, torch.cat(columns)[order], torch.cat(values)[order])
