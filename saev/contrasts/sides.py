"""The two groups of images of a contrast, and which of their images belong together."""

import dataclasses
import math
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64


@dataclasses.dataclass(frozen=True, eq=False)
class Sides:
    """Two groups of images. Images have positions: those of `a` in its order, then those of `b`.

    Clusters are renumbered from 0, strata too. ValueError for an empty group, an image in both groups or twice in one, and a
    cluster with images in both.
    """

    name: str
    a: Int64[np.ndarray, " images_a"]  # rows of the scores
    b: Int64[np.ndarray, " images_b"]
    cluster: Int64[np.ndarray, " images"]  # of each position: images of one specimen; resampled and permuted together
    stratum: Int64[np.ndarray, " images"]  # of each position: images are compared within a stratum alone, e.g. a view

    def __post_init__(self):
        if not (len(self.a) and len(self.b)):
            raise ValueError(f"pair {self.name}: group {'b' if len(self.a) else 'a'} has no images.")
        if len(np.unique(self.rows)) < self.n_images:
            raise ValueError(f"pair {self.name}: an image is in both groups, or twice in one.")
        for key in ("cluster", "stratum"):
            object.__setattr__(self, key, np.unique(getattr(self, key), return_inverse=True)[1].astype(np.int64))
        mixed = np.intersect1d(self.cluster[self.is_a], self.cluster[~self.is_a])
        if len(mixed):
            raise ValueError(f"pair {self.name}: {len(mixed)} clusters have images in both groups.")

    @cached_property
    def rows(self) -> Int64[np.ndarray, " images"]:
        """The row of the scores of each position."""
        return np.concatenate([self.a, self.b])

    @property
    def n_images(self) -> int:
        return len(self.rows)

    @cached_property
    def is_a(self) -> Bool[np.ndarray, " images"]:
        """Whether the image at a position is in group a."""
        return np.arange(self.n_images) < len(self.a)

    @cached_property
    def images(self) -> Int64[np.ndarray, "clusters strata"]:
        """The number of images of each cluster in each stratum."""
        counts = np.zeros((self.cluster.max() + 1, self.stratum.max() + 1), np.int64)
        np.add.at(counts, (self.cluster, self.stratum), 1)
        return counts

    @cached_property
    def images_a(self) -> Int64[np.ndarray, " strata"]:
        """The number of images of group a in each stratum."""
        return self.images[self.cluster_is_a].sum(0)

    @cached_property
    def cluster_is_a(self) -> Bool[np.ndarray, " clusters"]:
        """Whether the images of a cluster are in group a."""
        return np.bincount(self.cluster, self.is_a) > 0

    @cached_property
    def exchangeable(self) -> Int64[np.ndarray, " clusters"]:
        """A number for clusters with about as many images in each stratum (1, 2 to 3, 4 to 7, ...): labels are permuted within it.

        A cluster of many images has larger sums of ranks: were it exchanged for a small one, groups of which one has the larger
        clusters would seem to differ.
        """
        size = np.where(self.images > 0, np.floor(np.log2(np.maximum(self.images, 1))) + 1, 0)
        return np.unique(size, axis=0, return_inverse=True)[1].ravel().astype(np.int64)

    @property
    def comparable(self) -> bool:
        """Whether clusters of both groups can be exchanged. Otherwise z is 0 and every p 1."""
        a, b = (self.exchangeable[group] for group in (self.cluster_is_a, ~self.cluster_is_a))
        return bool(np.isin(a, b).any())

    @property
    def smaller(self) -> int:
        """The number of clusters of the smaller group."""
        return int(np.bincount(self.cluster_is_a, minlength=2).min())

    @cached_property
    def alone(self) -> Bool[np.ndarray, " clusters"]:
        """Clusters that can be exchanged for none of the other group: they are in no test."""
        both = np.intersect1d(self.exchangeable[self.cluster_is_a], self.exchangeable[~self.cluster_is_a])
        return ~np.isin(self.exchangeable, both)

    @property
    def smallest_p(self) -> float:
        """The smallest two-sided p that the arrangements of the clusters can give."""
        arrangements, balanced = 1, True
        for number in range(self.exchangeable.max() + 1):
            members = self.cluster_is_a[self.exchangeable == number]
            n, k = len(members), int(members.sum())
            arrangements *= math.comb(n, k)
            balanced &= 2 * k == n or k in (0, n)
        return min(1.0, (2 if balanced else 1) / arrangements)  # balanced groups can be exchanged: z has the other sign

    @cached_property
    def weight(self) -> Float64[np.ndarray, " strata"]:
        """The weight of a rank in a sum over strata: 1 / (images + 1), after van Elteren (1960)."""
        return 1 / (self.images.sum(0) + 1)

    def position(self, n_rows: int) -> Int64[np.ndarray, " rows"]:
        """The position of each row of the scores; -1: in neither group."""
        position = np.full(n_rows, -1)
        position[self.rows] = np.arange(self.n_images)
        return position

    def folds(self, n: int = 5, seed: int = 0) -> Int64[np.ndarray, " clusters"]:
        """A fold of each cluster, from 0: at most n folds, and at most as many as the smaller group has clusters."""
        return folds_of(self.cluster_is_a, min(n, self.smaller), seed)


def folds_of(is_a: Bool[np.ndarray, " clusters"], n: int, seed: int) -> Int64[np.ndarray, " clusters"]:
    """A fold, 0 to n - 1, of each cluster: in the seed's order, those of each group spread evenly over the folds."""
    order = np.random.default_rng(seed).permutation(len(is_a))
    fold = np.empty(len(order), np.int64)
    a, b = order[is_a[order]], order[~is_a[order]]
    fold[a], fold[b] = np.arange(len(a)) % n, n - 1 - np.arange(len(b)) % n
    return fold
