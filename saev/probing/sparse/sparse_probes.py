"""The best k latents of a class, selected by an L1 path or by forward selection, and the unpenalised probe on them.

    l1       minimise sum |w| + C * sum of losses: the largest C at which at most k weights are non-zero, then refit
    greedy   refit with each of the latents of the largest gradient; add the one with the lowest loss

The gradient of every latent, |sum over rows of x (y - p)|, is one sparse product. So the L1 path is solved by scikit-learn on a
small working set and is exact for all latents: those whose gradient exceeds 1 / C join the set.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.sparse import csc_array
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from saev.probing.sparse.linear_fits import LinearFit, fit_converges, merge_silent_rows, parameters, refit

WIDTH = 32  # latents that join a working set at a time
SLACK = 1e-3  # relative excess of a gradient over 1 / C that is tolerated
GROWTH = 1.25  # of C per step along the path: small, as doubling C may give ten times the latents
REACH = 1e6  # ratio of the last C of the path to the first
FINE = 1.0005  # precision of C: nearly equal latents enter nearly together
SETTLED = 1e-3  # fraction of the labels' entropy: selection stops at a lower loss


def sparse_probes(
    x: csc_array, y: Bool[np.ndarray, " rows"], ks: Sequence[int], selection: str, candidates: int = 8
) -> dict[int, LinearFit]:
    """The probe for each k, on at most k latents, fewer where further ones have no effect.

    `x` has standardised codes; `candidates` (greedy) is the number of latents refitted at each step. ValueError where `y` has one
    value only.
    """
    if y.all() or not y.any():
        raise ValueError(f"a class with {int(y.sum())} of {len(y)} rows: give rows of it and others.")
    return greedy(x, y, ks, candidates) if selection == "greedy" else by_l1(x, y, ks)


def gradients(
    x: csc_array, y: Bool[np.ndarray, " rows"], p: Float64[np.ndarray, "#rows"]
) -> Float64[np.ndarray, " latents"]:
    """|derivative of the sum of losses by each weight| = |sum over rows of x (y - p)|."""
    return np.abs(x.T @ (y - p))


def largest(values: Float64[np.ndarray, " latents"], n: int, above: float) -> Int64[np.ndarray, " m"]:
    """Indices of the n largest values above a bound, in descending order; of equal ones the lowest index first."""
    candidates = np.flatnonzero(values > above)
    return candidates[np.argsort(-values[candidates], kind="stable")[:n]]


def greedy(x: csc_array, y: Bool[np.ndarray, " rows"], ks: Sequence[int], candidates: int) -> dict[int, LinearFit]:
    """Forward selection: the `candidates` latents of the largest gradient are refitted with those selected, and the best is added.

    With one candidate this is orthogonal matching pursuit.
    """
    none = best = refit(x, y, [])
    fits: dict[int, LinearFit] = {}
    for size in range(1, max(ks) + 1):
        gradient = gradients(x, y, expit(best.logits(x)))
        gradient[best.latents] = 0
        tried = [refit(x, y, np.append(best.latents, j)) for j in largest(gradient, candidates, 0)]
        if not tried or best.loss < SETTLED * none.loss:
            break
        best = fits[size] = min(tried, key=lambda fit: fit.loss)
    return {k: fits.get(k, best) for k in ks}


def by_l1(x: csc_array, y: Bool[np.ndarray, " rows"], ks: Sequence[int]) -> dict[int, LinearFit]:
    """The latents of the L1 path, refitted without the penalty; `converged` where both fits did."""
    path, fits = L1Path(x, y), {}
    for k in sorted(ks):
        support = path.at_most(k)
        fit = refit(x, y, support.latents)
        fits[k] = LinearFit(fit.latents, fit.weights, fit.bias, fit.loss, fit.converged and support.converged)
    return fits


class Support(NamedTuple):
    """Latents with non-zero weights."""

    latents: Int64[np.ndarray, " m"]
    converged: bool


class L1Path:
    """Minima of sum |w| + C * sum of losses over all latents, by C; the intercept is not penalised."""

    def __init__(self, x: csc_array, y: Bool[np.ndarray, " rows"]):
        self.x, self.y = x, y
        gradient = gradients(x, y, np.array([y.mean()]))
        self.working = largest(gradient, WIDTH, 0)
        self.first = 1 / gradient.max() if len(self.working) else np.inf  # up to here all weights are 0
        self.known = {self.first: Support(np.zeros(0, np.int64), True)}

    def at_most(self, k: int) -> Support:
        """The support at a C with k non-zero weights, or else at the largest C (up to FINE) with fewer."""
        if not len(self.working):
            return self.known[self.first]
        low = max(c for c, support in self.known.items() if len(support.latents) <= k)
        high = low
        while len(self.at(high).latents) <= k:
            if high > REACH * self.first:
                return self.at(high)
            low, high = high, GROWTH * high
        while len(self.at(low).latents) < k and high > FINE * low:
            middle = float(np.sqrt(low * high))
            low, high = (middle, high) if len(self.at(middle).latents) <= k else (low, middle)
        return self.at(low)

    def at(self, c: float) -> Support:
        """The minimum at C."""
        if c not in self.known:
            self.known[c] = self._minimum(c)
        return self.known[c]

    def _minimum(self, c: float) -> Support:
        while True:
            rows, labels, weight = merge_silent_rows(self.x, self.y, self.working)
            mean = weight @ rows / weight.sum()
            shift = np.where(np.abs(mean) > 1, mean, 0)  # beyond one deviation, coordinate descent converges slowly
            # liblinear penalises the intercept: as the weight of a large constant the penalty is negligible.
            model = LogisticRegression(
                l1_ratio=1.0, C=c, solver="liblinear", intercept_scaling=1000, tol=1e-6, max_iter=2000, random_state=0
            )
            converged = fit_converges(model, rows - shift, labels, weight)
            w, bias = parameters(model)
            chosen = w != 0
            fit = LinearFit(self.working[chosen], w[chosen], bias - float(w @ shift), np.nan, converged)
            gradient = gradients(self.x, self.y, expit(fit.logits(self.x)))
            gradient[self.working] = 0
            missing = largest(gradient, WIDTH, (1 + SLACK) / c)
            if not len(missing):
                return Support(np.sort(fit.latents), converged)
            self.working = np.concatenate([self.working, missing])
