"""Latents of like numbers of nodes side by side, each with the classes it has to be fitted to."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from saev.probing.logistic.nodes import Nodes

SIZE = 1 << 20  # latents * classes * nodes at a time


class Block(NamedTuple):
    """Some latents, some classes of each, and the latents' `Nodes.padded`."""

    at: tuple[Int64[Tensor, "l 1"], Int64[Tensor, "l k"]]
    """Of a matrix [latents, classes], `matrix[at]` is the block's part [l, k]."""
    values: Float64[Tensor, "l nodes"]
    weights: Float64[Tensor, "l nodes"]
    hidden: Float64[Tensor, "l nodes"]

    @property
    def latents(self) -> Int64[Tensor, " l"]:
        return self.at[0].squeeze(1)


def blocks(nodes: Nodes, wanted: Bool[Tensor, "latents classes"]) -> Iterator[Block]:
    """All wanted pairs, each once; to fill the rows some unwanted ones are among them."""
    count, lengths = wanted.sum(1), nodes.lengths
    order = lengths.argsort()
    order = order[count[order] > 0]
    while len(order):
        nth = torch.arange(1, len(order) + 1, device=order.device)
        room = nth * count[order].cummax(0).values * lengths[order]  # of these and those before them, side by side
        n = max(1, int(torch.searchsorted(room, SIZE, right=True)))
        some, order = order[:n], order[n:]
        _, columns = packed(wanted[some])
        yield Block((some[:, None], columns), *nodes.padded(some))


def packed(wanted: Bool[Tensor, "l classes"]) -> tuple[Int64[Tensor, " rows"], Int64[Tensor, "rows k"]]:
    """The rows with anything wanted, and of each as many columns as the fullest has: the wanted ones first.

    >>> rows, columns = packed(torch.tensor([[False, True, False], [False, False, False], [True, False, True]]))
    >>> rows.tolist(), columns.tolist()
    ([0, 2], [[1, 0], [0, 2]])
    """
    count = wanted.sum(1)
    rows = count.nonzero().squeeze(1)
    columns = (~wanted[rows]).byte().argsort(dim=1, stable=True)
    return rows, columns[:, : int(count.max())]
