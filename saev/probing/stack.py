"""Columns that grow a row of vectors at a time, in memory that is taken once.

On a CPU a column is as long as it may become. The system makes only the pages that are written, and takes back the rest
without a copy. Vectors kept in a list and put together at the end would need twice the memory; and fresh pages cost more
than the sums that are put there (in a virtual machine up to 1.6 s a GiB).
"""

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from saev.probing import segments


class Stack:
    """Columns of at most `most` numbers.

    >>> stack = Stack(most=4)
    >>> stack.add(torch.tensor([1, 2]), torch.tensor([0.5, 0.5]))
    >>> stack.add(torch.tensor([3]), torch.tensor([0.25]))
    >>> stack.columns()
    [tensor([1, 2, 3]), tensor([0.5000, 0.5000, 0.2500])]
    """

    def __init__(self, most: int):
        self.most, self.length = most, 0
        self._columns: list[np.ndarray] = []
        self._rows: list[tuple[Tensor, ...]] = []  # what lies on another device

    def add(self, *row: Shaped[Tensor, " n"]) -> None:
        """One vector for each column."""
        start, self.length = self.length, self.length + len(row[0])
        if not segments.on_cpu(row[0]):
            self._rows.append(row)
            return
        if not self._columns:
            self._columns = [np.empty(self.most, vector.numpy().dtype) for vector in row]
        for column, vector in zip(self._columns, row, strict=True):
            column[start : self.length] = vector.numpy()

    def columns(self) -> list[Tensor]:
        """All that was added, once it is complete."""
        for column in self._columns:
            column.resize(self.length, refcheck=False)  # nothing else refers to it
        elsewhere = [
            vectors[0] if len(vectors) == 1 else torch.cat(vectors) for vectors in zip(*self._rows, strict=True)
        ]
        return elsewhere or [torch.from_numpy(column) for column in self._columns]
