"""Principal components: one pass of second moments and one eigendecomposition, for every rank and sparsity."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saev.baselines.baseline import Baseline
from saev.baselines.fitter import Fitter
from saev.baselines.second_moments import SecondMoments, shift_of
from saev.baselines.settings import PCA
from saev.nn.normalise import Normaliser

SAMPLE = 16384  # tokens that orient the components
NEGLIGIBLE = 1e-12  # variances below this fraction of the largest are rounding errors


class PCADictionary(Baseline):
    """codes = V (z - centre), z_hat = centre + V^T codes, for orthonormal rows V by decreasing variance; codes are signed.

    Args:
        k: codes kept per token, those of largest absolute value (without `whiten` the k components with the least
            error); null: all.
        rank: number of first components to use; null: all given.
        whiten: divide each code by its standard deviation over the training tokens (before the selection by k), so that
            codes have variance 1. A component without variance has code 0.
    """

    kind = "pca"
    centre: Float[Tensor, " d_model"]
    variance: Float[Tensor, " rank"]

    def __init__(
        self,
        normaliser: Normaliser,
        atoms: Float[Tensor, "n_components d_model"],
        k: int | None = None,
        rank: int | None = None,
        whiten: bool = False,
    ):
        _check("rank", rank, len(atoms))
        super().__init__(normaliser, atoms[:rank])
        _check("k", k, self.n_latents)
        self.k, self.rank, self.whiten = k, rank, whiten
        self.register_buffer("centre", self.atoms_.new_zeros(self.d_model))
        self.register_buffer("variance", self.atoms_.new_ones(self.n_latents))

    @classmethod
    def of(
        cls,
        normaliser: Normaliser,
        components: Float[Tensor, "n_components d_model"],
        variance: Float[Tensor, " n_components"],
        centre: Float[Tensor, " d_model"],
        **settings: Any,
    ) -> "PCADictionary":
        """The dictionary of these components of normalised activations; `variance` is that of their codes."""
        pca = cls(normaliser, components, **settings)
        pca.variance.copy_(variance[: pca.n_latents])
        pca.centre.copy_(centre)
        return pca

    def codes(self, z: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_latents"]:
        """Signed coordinates of z - centre; 0 except the k largest in absolute value."""
        c = (z - self.centre) @ self.atoms_.T
        if self.whiten:
            spread = self._spread()
            c = torch.where(spread > 0, c / spread, 0)
        if self.k is None:
            return c
        kept = c.abs().topk(self.k, dim=1, sorted=False).indices
        return torch.zeros_like(c).scatter(1, kept, c.gather(1, kept))

    def decode(self, codes: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch d_model"]:
        """The reconstruction of raw activations from codes."""
        c = codes.float() * self._spread() if self.whiten else codes.float()
        return self.normaliser.inverse(c @ self.atoms_ + self.centre)

    def _spread(self) -> Float[Tensor, " n_latents"]:
        return torch.where(self.variance > NEGLIGIBLE * self.variance.max(), self.variance, 0).sqrt()


class PCAFitter(Fitter):
    """Fits PCA for every k in one pass over the data.

    The covariance is exact (float64). The components' signs come from the sample of `start`: exact third moments of
    the coefficients would take a second pass, and a sample of 16384 determines the sign of every skewness beyond 0.04 (two
    standard errors of a Gaussian's).

    Gives a dictionary per entry of `settings.k` that is not above the rank.
    """

    sample_tokens = SAMPLE
    state = ("moments",)

    def __init__(self, settings: PCA):
        self.settings = settings

    def start(self, normaliser: Normaliser, sample: Float[Tensor, "n d_model"], n_tokens: int) -> None:
        d_model = sample.shape[1]
        _check("rank", self.settings.rank, d_model)
        rank = self.settings.rank or d_model
        if n_tokens <= rank:
            raise ValueError(
                f"rank={self.settings.rank}: {rank} components need more than {rank} tokens, an epoch has {n_tokens}: "
                "lower rank or record more images."
            )
        self._kept = [k for k in self.settings.k if k is None or k <= rank]
        if not self._kept:
            raise ValueError(
                f"k={list(self.settings.k)}: must have an entry between 1 and rank={rank}, or null for all codes."
            )
        self._normaliser, self._sample = normaliser, sample
        self.moments = SecondMoments(shift_of(sample))

    def update(self, z: Float[Tensor, "batch d_model"], token: Int64[Tensor, " batch"]) -> None:
        self.moments.add(z)

    def finish_pass(self) -> Mapping[str, float]:
        """The fraction of the variance that the first k components explain, for each k."""
        variance, _ = principal_components(self.moments.covariance)
        fraction = variance.cumsum(0) / variance.sum()
        return {f"explained_variance/rank={k}": float(fraction[k - 1]) for k in self._kept if k is not None}

    def merge(self, other: Fitter) -> None:
        assert isinstance(other, PCAFitter)
        self.moments.merge(other.moments)

    def dictionaries(self) -> Mapping[str, PCADictionary]:
        """One per k: "k=1", ..., and "k=all" for null."""
        variance, components = principal_components(self.moments.covariance)
        fitted = (self._normaliser, oriented(components, self._sample), variance, self.moments.mean)
        settings = {"rank": self.settings.rank, "whiten": self.settings.whiten}
        return {f"k={'all' if k is None else k}": PCADictionary.of(*fitted, k=k, **settings) for k in self._kept}


def principal_components(
    covariance: Float[Tensor, "d_model d_model"],
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, "d_model d_model"]]:
    """(variances by decreasing size, the components as rows): the eigenvectors of a covariance, signs arbitrary."""
    values, vectors = torch.linalg.eigh(covariance)
    return values.flip(0).clamp_min(0), vectors.T.flip(0)


def oriented(
    components: Float[Tensor, "n d_model"], sample: Float[Tensor, "tokens d_model"]
) -> Float[Tensor, "n d_model"]:
    """Each component or its negative, so that its coefficient is positively skewed on the sample.

    The sign of sum (c - mean c)^3: tokens far from the mean then have positive coefficients, as where a latent fires. A
    component without skewness has its largest entry positive.
    """
    c = sample @ components.T.to(sample)
    skewness = (c - c.sum(0) / max(len(c), 1)).pow(3).sum(0)
    largest = components.gather(1, components.abs().argmax(1, keepdim=True)).squeeze(1)
    return torch.where(torch.where(skewness == 0, largest, skewness) < 0, -1, 1)[:, None] * components


def _check(name: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        raise ValueError(f"{name}={value} must be between 1 and {most}, the number of components; null takes all.")
