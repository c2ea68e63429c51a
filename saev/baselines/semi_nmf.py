"""Semi-nonnegative factorisation: codes may only add atoms, atoms may have any sign; alternating passes over the stream.

    min over F >= 0 and A of  1/2 ||Z - F A||^2 + l1 * sum F        (Ding, Li & Jordan 2010; with l1 rows of A of norm <= 1)

The atoms depend on the data only through F^T F and F^T Z, which are additive (Mairal et al. 2010), so no codes are stored.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saev.baselines.baseline import Baseline, as_unit_rows
from saev.baselines.fitter import Fitter
from saev.baselines.settings import SemiNMF
from saev.nn.centroids import kmeans
from saev.nn.normalise import Normaliser

LEAST_PENALTY = 1e-4  # of ADMM, relative to the largest eigenvalue: float32 keeps three digits of the inverse
RELAXATION = 1.6
PER_ATOM = 50  # tokens that k-means starts from
NEGLIGIBLE = 1e-10  # directions of code space with a smaller fraction of the energy are not updated
SWEEPS = 10  # over the atoms, where l1 bounds their norms


class SemiNMFDictionary(Baseline):
    """Codes f = argmin over f >= 0 of 1/2 ||z - f A||^2 + l1_penalty sum f, by `iterations` of ADMM; atoms have unit norm.

    With more atoms than d_model 100 iterations end near the minimum: with 40 random atoms of 16 dimensions the squared
    error was above that of SciPy's NNLS by 0.7 % of ||z||^2, after 300 it was equal.
    """

    kind = "semi_nmf"

    def __init__(
        self,
        normaliser: Normaliser,
        atoms: Float[Tensor, "n_latents d_model"],
        iterations: int = 100,
        l1_penalty: float = 0.0,
    ):
        super().__init__(normaliser, atoms)
        if iterations < 1 or not 0 <= l1_penalty < torch.inf:
            raise ValueError(f"iterations={iterations}, l1_penalty={l1_penalty}: must be at least 1 and at least 0.")
        self.iterations, self.l1_penalty = iterations, l1_penalty

    def codes(self, z: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_latents"]:
        """Nonnegative codes of normalised activations, with exact zeros."""
        return nonnegative_codes(z, self.atoms_, self.iterations, self.l1_penalty)


class SemiNMFFitter(Fitter):
    """Alternates in `passes` over the data: codes for the current atoms, then the best atoms for these codes.

    The objective does not increase from pass to pass as far as the codes converge: codes are recomputed in each pass, so none
    are stored. Atoms start from the directions of k-means centroids, as Ding et al. advise.
    """

    sums = ("_ftf", "_ftz", "_square", "_sum", "_active", "_count")
    state = ("atoms", *sums)

    def __init__(self, settings: SemiNMF):
        self.settings, self.n_passes = settings, settings.passes
        self.sample_tokens = PER_ATOM * settings.n_latents

    def start(self, normaliser: Normaliser, sample: Float[Tensor, "n d_model"], n_tokens: int) -> None:
        if min(len(sample), n_tokens) < self.settings.n_latents:
            raise ValueError(
                f"n_latents={self.settings.n_latents}: more atoms than tokens ({min(len(sample), n_tokens)}): lower n_latents or "
                "record more images."
            )
        self._normaliser = normaliser
        self.atoms = as_unit_rows(kmeans(sample, self.settings.n_latents, self.settings.seed))
        self._reset()

    def _reset(self) -> None:
        zeros = self.atoms.new_zeros((), dtype=torch.float64)
        n, d_model = self.atoms.shape
        self._ftf, self._ftz = zeros.expand(n, n).clone(), zeros.expand(n, d_model).clone()
        self._square, self._sum, self._active, self._count = zeros, zeros, zeros.long(), 0

    def update(self, z: Float[Tensor, "batch d_model"], token: Int64[Tensor, " batch"]) -> None:
        codes = nonnegative_codes(z, self.atoms, self.settings.iterations, self.settings.l1_penalty)
        f, y = codes.double(), z.double()
        self._ftf.addmm_(f.T, f)
        self._ftz.addmm_(f.T, y)
        self._square = self._square + y.square().sum()
        self._sum = self._sum + f.sum()
        self._active = self._active + (codes > 0).sum()
        self._count += len(z)

    def finish_pass(self) -> Mapping[str, float]:
        """Numbers of the pass, for the atoms at its start: `mse`, mean over tokens and dimensions of the squared error of z (the
        mean predictor has 1); `l0`, mean number of codes that are not 0; `used`, fraction of atoms with a code that is not 0;
        `objective`, mean over tokens of the minimised objective.
        """
        a, n = self.atoms.double(), max(self._count, 1)
        error = self._square - 2 * (self._ftz * a).sum() + (self._ftf * (a @ a.T)).sum()
        numbers = {
            "mse": float(error) / (n * a.shape[1]),
            "l0": float(self._active) / n,
            "used": float((self._ftf.diagonal() > 0).double().mean()),
            "objective": float(error / 2 + self.settings.l1_penalty * self._sum) / n,
        }
        self.atoms = best_atoms(self._ftf, self._ftz, a, bounded=self.settings.l1_penalty > 0).to(self.atoms)
        self._reset()
        return numbers

    def merge(self, other: Fitter) -> None:
        assert isinstance(other, SemiNMFFitter)
        for name in self.sums:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def dictionaries(self) -> Mapping[str, SemiNMFDictionary]:
        return {"": SemiNMFDictionary(self._normaliser, self.atoms, self.settings.iterations, self.settings.l1_penalty)}


def nonnegative_codes(
    z: Float[Tensor, "batch d_model"], atoms: Float[Tensor, "n d_model"], iterations: int, l1: float = 0.0
) -> Float[Tensor, "batch n"]:
    """argmin over f >= 0 of 1/2 ||z - f @ atoms||^2 + l1 sum f, per token, by relaxed ADMM (Boyd et al. 2011, 3.4.3 and 5.2).

        x = (z A^T - l1 + rho (f - u)) (A A^T + rho)^-1;  x = 1.6 x - 0.6 f;  f = relu(x + u);  u = u + x - f

    rho is a third of the geometric mean of the extreme eigenvalues of A A^T: that mean is best for an unbounded quadratic, a
    third of it with bounds. Fitted atoms of semi-NMF nearly cancel each other, so a fixed rho converges slowly there or at the start.
    One inverse serves all tokens, an iteration is one matrix product, and a token's codes do not depend on the other tokens.
    With more atoms than d_model the minimum may not be unique.
    """
    a = atoms.double()
    values, vectors = torch.linalg.eigh(a @ a.T)
    least, largest = values[0].clamp_min(0), values[-1].clamp_min(1e-30)  # atoms of zeros have codes of zero
    rho = torch.maximum((least * largest).sqrt() / 3, LEAST_PENALTY * largest)
    inverse = ((vectors / (values + rho)) @ vectors.T).to(z)
    rho = rho.to(z)
    b = z @ atoms.T - l1
    f, u = torch.zeros_like(b), torch.zeros_like(b)
    for _ in range(iterations):
        x = RELAXATION * ((b + rho * (f - u)) @ inverse) + (1 - RELAXATION) * f
        u = u + x
        f = u.relu()
        u = u - f
    return f


def best_atoms(
    ftf: Float[Tensor, "n n"], ftz: Float[Tensor, "n d_model"], atoms: Float[Tensor, "n d_model"], bounded: bool
) -> Float[Tensor, "n d_model"]:
    """The atoms that minimise ||Z - F A||^2 for given codes; atoms that no token uses are unchanged.

    Free: A + (F^T F)^+ (F^T Z - F^T F A), rows divided by their norms (the codes determine the scale). `bounded`, which l1
    needs (else small codes of large atoms cost nothing): norms of at most 1, by sweeps of exact steps for one atom at a
    time, a_j + ((F^T Z)_j - (F^T F A)_j) / (F^T F)_jj, cut to norm 1 (Mairal et al. 2010, algorithm 2).
    """
    if not bounded:
        step = torch.linalg.pinv(ftf, rtol=NEGLIGIBLE, hermitian=True) @ (ftz - ftf @ atoms)
        return as_unit_rows(atoms + step)
    atoms = atoms.clone()
    for _ in range(SWEEPS):
        for j in ftf.diagonal().nonzero().flatten().tolist():
            row = atoms[j] + (ftz[j] - ftf[j] @ atoms) / ftf[j, j]
            atoms[j] = row / row.norm().clamp_min(1)
    return atoms
