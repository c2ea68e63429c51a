"""Mean and covariance of vectors as an additive statistic, for principal components and Gaussians."""

import torch
from jaxtyping import Float
from torch import Tensor

from saev.baselines.fitter import Resumable

ROWS = 512  # per matrix product: their float64 copy fits into the cache


class SecondMoments(Resumable):
    """Count n, sum of y, and sum of y y^T, in float64, with y = x - shift for a fixed shift near the mean.

    The shift drops out of `mean` and `scatter`; it keeps the sums small compared with the deviations, so that the massive
    dimensions of vision transformers lose no digits. Products are float64: in float32 the small eigenvalues of spectra
    that span six decades are lost, and sums depend on the batches.
    """

    state = ("count", "total", "_upper")

    def __init__(self, shift: Float[Tensor, " d_model"]):
        self.shift = shift.double()
        self.count = 0
        self.total = torch.zeros_like(self.shift)
        self._upper = torch.zeros(len(shift), len(shift), dtype=torch.float64, device=shift.device)

    def add(self, x: Float[Tensor, "batch d_model"]) -> None:
        """Add vectors."""
        half = len(self.shift) // 2
        for rows in x.split(ROWS):
            y = rows.double() - self.shift
            self.total += y.sum(0)
            # y^T y is symmetric: skipping its lower left quarter saves a quarter of the work
            self._upper[:half].addmm_(y[:, :half].T, y)
            self._upper[half:, half:].addmm_(y[:, half:].T, y[:, half:])
        self.count += len(x)

    def merge(self, other: "SecondMoments") -> None:
        """Add the sums of `other`, which has the same shift."""
        self.count += other.count
        self.total += other.total
        self._upper += other._upper

    @property
    def mean(self) -> Float[Tensor, " d_model"]:
        """Mean of x."""
        return self.shift + self.total / max(self.count, 1)

    @property
    def scatter(self) -> Float[Tensor, "d_model d_model"]:
        """Sum over vectors of (x - mean)(x - mean)^T = sum of y y^T - (sum of y)(sum of y)^T / n."""
        upper = self._upper.triu()
        moment = upper + upper.triu(1).T
        return moment - torch.outer(self.total, self.total) / max(self.count, 1)

    @property
    def covariance(self) -> Float[Tensor, "d_model d_model"]:
        """Population covariance, scatter / n."""
        return self.scatter / max(self.count, 1)


def shift_of(sample: Float[Tensor, "n d_model"]) -> Float[Tensor, " d_model"]:
    """A shift near the mean of the data that `sample` was drawn from: its mean (0 for an empty one)."""
    return sample.double().sum(0) / max(len(sample), 1)
