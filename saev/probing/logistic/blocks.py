"""Latents batched by node count, each with the classes that are to be fitted."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from saev.probing.logistic.nodes import Nodes

SIZE = 1 << 20  # latents * classes * nodes at a time


class Block(NamedTuple):
    """Some latents, the same number of classes for each, and the latents' `Nodes.padded`."""

    at: tuple[Int64[Tensor, "l 1"], Int64[Tensor, "l k"]]
    """The index of the block in a matrix [latents, classes]: `matrix[at]` is [l, k]."""
    values: Float64[Tensor, "l nodes"]
    weights: Float64[Tensor, "l nodes"]
    hidden: Float64[Tensor, "l nodes"]

    @property
    def latents(self) -> Int64[Tensor, " l"]:
        return self.at[0].squeeze(1)


def blocks(nodes: Nodes, mask: Bool[Tensor, "latents classes"]) -> Iterator[Block]:
    """All pairs of the mask, each once; shorter rows are filled up with pairs outside the mask."""
    count, lengths = mask.sum(1), nodes.lengths
    order = lengths.argsort()
    order = order[count[order] > 0]
    while len(order):
        nth = torch.arange(1, len(order) + 1, device=order.device)
        size = nth * count[order].cummax(0).values * lengths[order]  # of a block that ends with this latent
        n = max(1, int(torch.searchsorted(size, SIZE, right=True)))
        latents, order = order[:n], order[n:]
        _, columns = pack_rows(mask[latents])
        yield Block((latents[:, None], columns), *nodes.padded(latents))


def pack_rows(mask: Bool[Tensor, "l classes"]) -> tuple[Int64[Tensor, " rows"], Int64[Tensor, "rows k"]]:
    """The rows with a true element, and k columns of each, the true ones first; k is the largest number of true ones.

    >>> rows, columns = pack_rows(torch.tensor([[False, True, False], [False, False, False], [True, False, True]]))
    >>> rows.tolist(), columns.tolist()
    ([0, 2], [[1, 0], [0, 2]])
    """
    count = mask.sum(1)
    rows = count.nonzero().squeeze(1)
    columns = (~mask[rows]).byte().argsort(dim=1, stable=True)
    return rows, columns[:, : int(count.max())]
