"""The tree of the images' taxa: leaves are the paths that occur, a node is a range of leaves."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64, Num


@dataclasses.dataclass(frozen=True)
class Node:
    """A value of a rank below the values of the ranks above it; its leaves are `first` to `stop` (excluded)."""

    name: str
    rank: str
    value: str
    depth: int
    first: int
    stop: int
    n_images: int


@dataclasses.dataclass(frozen=True)
class Tree:
    """Nodes in the order of the rows, each before the nodes below it; `leaf` is the leaf of each image, `paths` the values of each leaf."""

    ranks: tuple[str, ...]
    nodes: tuple[Node, ...]
    leaf: Int64[np.ndarray, " images"]
    paths: tuple[tuple[str, ...], ...]

    @property
    def n_leaves(self) -> int:
        return len(self.paths)

    @property
    def depth(self) -> Int64[np.ndarray, " images"]:
        """The number of ranks at which each image has a value."""
        return np.array([len(path) for path in self.paths], np.int64)[self.leaf]

    @property
    def common(self) -> tuple[str, ...]:
        """The values that all images have, from the highest rank on."""
        alike = [len({*values}) == 1 for values in zip(*self.paths, strict=False)]
        return self.paths[0][: [*alike, False].index(False)]

    def contains(self) -> Bool[np.ndarray, "nodes nodes"]:
        """Whether the leaves of a node (row) contain those of another (column)."""
        first, stop = np.array([(node.first, node.stop) for node in self.nodes]).T
        return (first[:, None] <= first) & (stop[:, None] >= stop) & ~np.eye(len(first), dtype=bool)

    def parents(self) -> list[Node | None]:
        """The parent of each node; None: it has none."""
        above: list[Node] = []
        parents: list[Node | None] = []
        for node in self.nodes:
            above = [one for one in above if one.depth < node.depth]
            parents.append(above[-1] if above else None)
            above.append(node)
        return parents

    def over_nodes(self, of_leaves: Num[np.ndarray, "n leaves"]) -> Num[np.ndarray, "n nodes"]:
        """The sum over the leaves of each node."""
        sums = np.concatenate([np.zeros((len(of_leaves), 1), of_leaves.dtype), np.cumsum(of_leaves, 1)], 1)
        return sums[:, [node.stop for node in self.nodes]] - sums[:, [node.first for node in self.nodes]]

    def members(self, leaf: Int64[np.ndarray, " images"]) -> Float32[np.ndarray, "images nodes"]:
        """1 where an image with this leaf is in the node."""
        first, stop = np.array([(node.first, node.stop) for node in self.nodes]).T
        return ((leaf[:, None] >= first) & (leaf[:, None] < stop)).astype(np.float32)

    def separating(self) -> "Tree":
        """The tree without nodes that have every image. ValueError where none is left."""
        kept = tuple(node for node in self.nodes if node.n_images < len(self.leaf))
        if not kept:
            raise ValueError(
                f"rows={','.join(self.ranks)}: all {len(self.leaf)} images have one value, {self.nodes[0].value}: "
                "name a column that differs between them."
            )
        return dataclasses.replace(self, nodes=kept)


def tree_of(taxa: Mapping[str, Sequence[str | None]]) -> Tree:
    """The tree of images with these values, by rank from the highest to the lowest.

    Values are in alphabetical order, numbers by size. An image without a value at a rank belongs to the nodes of the ranks above
    alone, and comes after the images that have one.
    """
    paths = [path_of(values) for values in zip(*taxa.values(), strict=True)]
    depth, ranks = len(taxa), tuple(taxa)
    leaves = sorted({*paths}, key=lambda path: (*map(position, path), *[(2, 0.0, "")] * (depth - len(path))))
    number = {path: i for i, path in enumerate(leaves)}
    leaf = np.array([number[path] for path in paths], np.int64)
    sizes = np.bincount(leaf, minlength=len(leaves))
    spans: dict[tuple[str, ...], list[int]] = {}  # first and last leaf of each prefix
    for i, path in enumerate(leaves):
        for n in range(1, len(path) + 1):
            spans.setdefault(path[:n], [i, i])[1] = i
    nodes = []
    for prefix, (first, last) in spans.items():
        name = "/".join(f"{rank}={value}" for rank, value in zip(ranks, prefix, strict=False))
        n_images = int(sizes[first : last + 1].sum())
        nodes.append(Node(name, ranks[len(prefix) - 1], prefix[-1], len(prefix), first, last + 1, n_images))
    names = [node.name for node in nodes]
    if twice := next((name for name in names if names.count(name) > 1), None) if len({*names}) < len(names) else None:
        raise ValueError(
            f"rows={','.join(ranks)}: two nodes would be named {twice}: replace the / in the values of these columns."
        )
    return Tree(ranks, tuple(nodes), leaf, tuple(leaves))


def position(value: str) -> tuple[int, float, str]:
    """What values are sorted by: numbers first, by size.

    >>> sorted(["10.0", "b", "9", "a", "-1"], key=position)
    ['-1', '9', '10.0', 'a', 'b']
    """
    try:
        number = float(value)
    except ValueError:
        number = math.inf
    return (0, number, value) if math.isfinite(number) else (1, 0.0, value)


def path_of(values: Sequence[str | None]) -> tuple[str, ...]:
    """The values up to the first that is missing.

    >>> path_of(["Felidae", None, "leo"]), path_of([None])
    (('Felidae',), ())
    """
    end = next((i for i, value in enumerate(values) if value is None), len(values))
    return tuple(value for value in values[:end] if value is not None)


def group_leaves(tree: Tree, group: Int64[np.ndarray, " images"], column: str | None) -> Int64[np.ndarray, " groups"]:
    """The leaf of each group of images. ValueError for a group in two leaves."""
    leaf = np.full(group.max() + 1, -1)
    leaf[group] = tree.leaf
    if len(torn := np.flatnonzero(leaf[group] != tree.leaf)):
        n = len(np.unique(group[torn]))
        raise ValueError(
            f"group={column}: {n} groups have images of different {tree.ranks[-1]}: name a column whose images are of one "
            "taxon each, or leave group out."
        )
    return leaf
