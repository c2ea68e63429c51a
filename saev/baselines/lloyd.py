"""A pass of Lloyd's method as additive statistics: sums, populations and inertias of clusters, and the centroids they give."""

import dataclasses

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

NUDGE = 0.01  # halves of a split cluster lie so far apart, in root mean square radii


@dataclasses.dataclass
class Clusters:
    """What a pass sums up of each cluster; float64 and int64."""

    sums: Float64[Tensor, "k d"]  # of the tokens
    counts: Int64[Tensor, " k"]
    inertia: Float64[Tensor, " k"]  # of squared distances to the centroid

    @classmethod
    def zeros(cls, k: int, d: int, device: torch.device | str = "cpu") -> "Clusters":
        """A pass that has seen nothing."""
        double = {"dtype": torch.float64, "device": device}
        return cls(
            torch.zeros(k, d, **double),
            torch.zeros(k, dtype=torch.int64, device=device),
            torch.zeros(k, **double),
        )

    def add(
        self, z: Float[Tensor, "batch d"], index: Int64[Tensor, " batch"], squared: Float[Tensor, " batch"]
    ) -> None:
        """Take in tokens, the clusters they belong to and their squared distances to these' centroids."""
        self.sums.index_add_(0, index, z.double())
        self.counts += torch.bincount(index, minlength=len(self.counts))
        self.inertia.index_add_(0, index, squared.double())

    def merge(self, other: "Clusters") -> None:
        """Take in what another process has summed up."""
        for name in ("sums", "counts", "inertia"):
            mine = getattr(self, name)
            mine += getattr(other, name).to(mine.device)

    def centroids(self, old: Float[Tensor, "k d"], seed: int, beyond: float = 0.0) -> Float[Tensor, "k d"]:
        """The clusters' means, or points past them by the share `beyond` of the way from the old centroids; in float32.

        A cluster without tokens takes half of the one with the largest inertia: both start at its point, moved apart by a
        hundredth of its radius in a direction that `seed` draws, and the next pass divides the tokens. A function of the
        statistics and the old centroids alone.
        """
        old = old.double()
        means = torch.where(self.counts[:, None] > 0, self.sums / self.counts.clamp_min(1)[:, None], old)
        means += beyond * (means - old)
        empty = (self.counts == 0).nonzero()[:, 0].tolist()
        left, counts = self.inertia.clone(), self.counts.double()
        generator = torch.Generator().manual_seed(seed)
        for k in empty:
            parent = int(left.argmax())
            if left[parent] == 0:  # every token is a centroid: there are fewer different tokens than clusters
                break
            radius = (left[parent] / counts[parent] / means.shape[1]).sqrt()
            signs = torch.randint(2, means.shape[1:], generator=generator).to(means) * 2 - 1
            means[k] = means[parent] + NUDGE * radius * signs
            means[parent] -= NUDGE * radius * signs
            left[parent], counts[parent] = left[parent] / 2, counts[parent] / 2
            left[k], counts[k] = left[parent], counts[parent]
        return means.float()
