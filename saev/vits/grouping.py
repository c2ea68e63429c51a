"""How a recording's images are divided into batches and forward passes."""

from collections.abc import Hashable, Iterator, Sequence


def chunks(items: range, size: int) -> Iterator[range]:
    """Consecutive runs of `size` items, the last one shorter.

    >>> list(chunks(range(5), 2))
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return (items[at : at + size] for at in range(0, len(items), size))


def passes(grids: Sequence[Hashable], most: int) -> Iterator[list[int]]:
    """Places of equal grids, at most `most` together, in the order in which the grids first appear.

    >>> list(passes([(2, 3), (3, 2), (2, 3), (2, 3)], 2))
    [[0, 2], [3], [1]]
    """
    alike: dict[Hashable, list[int]] = {}
    for place, grid in enumerate(grids):
        alike.setdefault(grid, []).append(place)
    return (places[at : at + most] for places in alike.values() for at in range(0, len(places), most))
