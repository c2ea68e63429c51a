"""A pass of Lloyd's method as additive statistics: sums, populations and inertias of clusters, and the centroids that follow."""

import dataclasses

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from saev.baselines.fitter import Resumable

NUDGE = 0.01  # distance of a split cluster's halves, in root mean square radii


@dataclasses.dataclass
class Clusters(Resumable):
    """Sums over a pass per cluster; float64 and int64."""

    state = ("sums", "counts", "inertia")

    sums: Float64[Tensor, "k d"]  # of the tokens
    counts: Int64[Tensor, " k"]
    inertia: Float64[Tensor, " k"]  # of squared distances to the centroid

    @classmethod
    def zeros(cls, k: int, d: int, device: torch.device | str = "cpu") -> "Clusters":
        """The sums at the start of a pass."""
        double = {"dtype": torch.float64, "device": device}
        return cls(
            torch.zeros(k, d, **double),
            torch.zeros(k, dtype=torch.int64, device=device),
            torch.zeros(k, **double),
        )

    def add(
        self, z: Float[Tensor, "batch d"], index: Int64[Tensor, " batch"], squared: Float[Tensor, " batch"]
    ) -> None:
        """Add tokens, given their clusters and their squared distances to the centroids of these."""
        self.sums.index_add_(0, index, z.double())
        self.counts += torch.bincount(index, minlength=len(self.counts))
        self.inertia.index_add_(0, index, squared.double())

    def merge(self, other: "Clusters") -> None:
        """Add the sums of another process."""
        for name in self.state:
            total = getattr(self, name)
            total += getattr(other, name).to(total.device)

    def centroids(self, old: Float[Tensor, "k d"], seed: int, beyond: float = 0.0) -> Float[Tensor, "k d"]:
        """The clusters' means, or points past them by the fraction `beyond` of the way from the old centroids; in float32.

        An empty cluster splits the one with the largest inertia: both centroids start at its mean, moved apart by a hundredth of
        its radius in a random direction (`seed`), and the next pass divides the tokens. A function of the statistics, the old
        centroids and the seed.
        """
        old = old.double()
        means = torch.where(self.counts[:, None] > 0, self.sums / self.counts.clamp_min(1)[:, None], old)
        means += beyond * (means - old)
        empty = (self.counts == 0).nonzero()[:, 0].tolist()
        left, counts = self.inertia.clone(), self.counts.double()
        generator = torch.Generator().manual_seed(seed)
        for k in empty:
            parent = int(left.argmax())
            if left[parent] == 0:  # fewer different tokens than clusters
                break
            radius = (left[parent] / counts[parent] / means.shape[1]).sqrt()
            signs = torch.randint(2, means.shape[1:], generator=generator).to(means) * 2 - 1
            means[k] = means[parent] + NUDGE * radius * signs
            means[parent] -= NUDGE * radius * signs
            left[parent], counts[parent] = left[parent] / 2, counts[parent] / 2
            left[k], counts[k] = left[parent], counts[parent]
        return means.float()
