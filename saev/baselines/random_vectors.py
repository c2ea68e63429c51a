"""Random vectors as atoms: tokens of the data, Gaussians of its covariance, or the random start of an SAE.

The control for a trained dictionary: what these explain is not due to training.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saev.baselines.baseline import Baseline, as_unit_rows
from saev.baselines.fitter import Fitter
from saev.baselines.refit import least_squares_on
from saev.baselines.reservoir import Reservoir
from saev.baselines.second_moments import SecondMoments, shift_of
from saev.baselines.settings import RandomVectors
from saev.nn.normalise import Normaliser
from saev.ops.topk import topk_indices

SAMPLE = 4096  # tokens whose mean is the shift of the moments
RCOND = 1e-8  # directions with squared singular values below this fraction of the largest are outside the atoms' span


class RandomVectorsDictionary(Baseline):
    """Atoms a_j = s_j u_j of norm s_j, and y = z - centre. Codes are in units of a_j.

    k: the k largest of relu(y u_j) are kept. Their codes are relu(y u_j) / s_j (matching: correlated atoms
        count twice, so the reconstruction may be worse than the centre), or with `refit` those of least squares on these atoms,
        which may be negative; z_hat = centre + codes @ atoms.
    k null: all projections y u_j / s_j with their signs, as scores that rank tokens. z_hat is then centre + (projection of
        y onto the span of the atoms), which is z itself for d_model atoms or more. `refit` changes nothing.
    """

    kind = "random_vectors"
    centre: Float[Tensor, " d_model"]
    span: Float[Tensor, "d_model d_model"]  # (U^T U)^+, of the unit atoms; where k is null

    def __init__(
        self,
        normaliser: Normaliser,
        atoms: Float[Tensor, "n_latents d_model"],
        k: int | None = None,
        refit: bool = False,
    ):
        super().__init__(normaliser, atoms)
        if k is not None and not 1 <= k <= self.n_latents:
            raise ValueError(f"k={k} must be between 1 and n_latents={self.n_latents}; null takes all projections.")
        self.k, self.refit = k, refit
        self.register_buffer("centre", self.atoms_.new_zeros(self.d_model))
        if k is None:
            self.register_buffer("span", span_of(as_unit_rows(self.atoms_)))

    def codes(self, z: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_latents"]:
        """Codes of normalised activations; an atom of norm 0 has code 0."""
        y, norms = z - self.centre, self._norms()
        h = y @ as_unit_rows(self.atoms_).T
        if self.k is None:
            return h / norms
        kept = topk_indices(h, self.k)
        values = h.gather(1, kept).relu()
        if self.refit:
            values = least_squares_on(y, as_unit_rows(self.atoms_), kept, values > 0)
        return torch.zeros_like(h).scatter(1, kept, values) / norms

    def decode(self, codes: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch d_model"]:
        """The reconstruction of raw activations from codes."""
        y = codes.float() @ self.atoms_
        if self.k is None:
            y = (codes.double() * self._norms()) @ (as_unit_rows(self.atoms_).double() @ self.span.double())
        return self.normaliser.inverse(y.float() + self.centre)

    def _norms(self) -> Float[Tensor, " n_latents"]:
        norms = torch.linalg.vector_norm(self.atoms_, dim=1)
        return torch.where(norms > 0, norms, 1)


class RandomVectorsFitter(Fitter):
    """One set of random vectors; a function of (seed, the dataset), independent of the order of the stream."""

    sample_tokens = SAMPLE
    state = ("_moments", "_reservoir", "_total", "_count")

    def __init__(self, settings: RandomVectors):
        self.settings = settings
        self.n_passes = int(settings.variant != "untrained")

    def start(self, normaliser: Normaliser, sample: Float[Tensor, "n d_model"], n_tokens: int) -> None:
        if self.settings.variant == "tokens" and n_tokens < self.settings.n_latents:
            raise ValueError(
                f"n_latents={self.settings.n_latents}: an epoch has only {n_tokens} tokens: lower n_latents, or take "
                "variant=gaussian, which draws any number of them."
            )
        self._normaliser = normaliser
        self._reservoir = Reservoir(self.settings.n_latents, sample.shape[1], self.settings.seed, sample.device)
        self._shift = shift_of(sample)
        self._moments = SecondMoments(self._shift)
        self._total, self._count = torch.zeros_like(self._shift), 0

    def update(self, z: Float[Tensor, "batch d_model"], token: Int64[Tensor, " batch"]) -> None:
        if self.settings.variant == "gaussian":
            self._moments.add(z)
        if self.settings.variant == "tokens":
            self._reservoir.add(z, token)
            self._total += (z.double() - self._shift).sum(0)
            self._count += len(z)

    def finish_pass(self) -> Mapping[str, float]:
        return {}

    def merge(self, other: Fitter) -> None:
        assert isinstance(other, RandomVectorsFitter)
        self._moments.merge(other._moments)
        self._reservoir.merge(other._reservoir)
        self._total += other._total
        self._count += other._count

    def dictionaries(self) -> Mapping[str, RandomVectorsDictionary]:
        mean = self._mean()
        atoms = self._vectors()
        if self.settings.variant == "tokens" and self.settings.centred:
            atoms = atoms - mean
        if self.settings.variant == "gaussian" and not self.settings.centred:
            atoms = atoms + mean
        atoms = as_unit_rows(atoms) if self.settings.unit_norm else atoms
        dictionary = RandomVectorsDictionary(self._normaliser, atoms, self.settings.k, self.settings.refit)
        if self.settings.centred:
            dictionary.centre.copy_(mean)
        return {"": dictionary}

    def _mean(self) -> Float[Tensor, " d_model"]:
        if self.settings.variant == "untrained":
            return torch.zeros_like(self._shift)
        gaussian = self.settings.variant == "gaussian"
        return self._moments.mean if gaussian else self._shift + self._total / max(self._count, 1)

    def _vectors(self) -> Float[Tensor, "n_latents d_model"]:
        if self.settings.variant == "tokens":
            return self._reservoir.rows.double()
        generator = torch.Generator().manual_seed(self.settings.seed)
        drawn = torch.randn(self.settings.n_latents, len(self._shift), generator=generator, dtype=torch.float64)
        drawn = drawn.to(self._shift.device)
        untrained = self.settings.variant == "untrained"
        return as_unit_rows(drawn) if untrained else drawn @ root_of(self._moments.covariance)


def root_of(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The symmetric square root, U sqrt(L) U^T: unlike a factor, it does not depend on the signs of eigenvectors."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def span_of(unit: Float[Tensor, "n d_model"]) -> Float[Tensor, "d_model d_model"]:
    """(U^T U)^+, which maps projections p = U y to the projection of y onto the span of the rows, (U^T U)^+ U^T p."""
    u = unit.double()
    return torch.linalg.pinv(u.T @ u, rtol=RCOND, hermitian=True).to(unit)
