"""Division of images into batches and forward passes."""

from collections.abc import Hashable, Iterator, Sequence

BATCHES_SORTED = 8  # batches sorted by grid together where grids differ; otherwise most forward passes would be small


def chunks(items: range, size: int) -> Iterator[range]:
    """Consecutive ranges of `size` items, the last one shorter.

    >>> list(chunks(range(5), 2))
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return (items[start : start + size] for start in range(0, len(items), size))


def passes(grids: Sequence[Hashable], most: int) -> Iterator[list[int]]:
    """Indices of equal grids, at most `most` together, in the order in which the grids first appear.

    >>> list(passes([(2, 3), (3, 2), (2, 3), (2, 3)], 2))
    [[0, 2], [3], [1]]
    """
    by_grid: dict[Hashable, list[int]] = {}
    for i, grid in enumerate(grids):
        by_grid.setdefault(grid, []).append(i)
    return (indices[start : start + most] for indices in by_grid.values() for start in range(0, len(indices), most))
