"""The best k latents of a class together, found by an L1 path or one by one, and the unpenalised probe on them.

    l1       the path of sum |w| + C * sum of losses: the largest C at which at most k weights are not 0, then refitted
    greedy   the latents that pull most at the residual are tried; the one whose refit loses least joins

Both look at all latents at every step: the pull of every latent, |sum over rows of x (y - p)|, is one sparse product. So
the L1 path is solved on a small working set, by scikit-learn, and is that of all latents all the same: a latent whose pull
exceeds 1 / C is missing from the set and joins it.
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
SLACK = 1e-3  # by which a pull may exceed 1 / C
GROWTH = 1.25  # of C from one step along the path to the next: small, for twice the C may have ten times the latents
REACH = 1e6  # the path ends at so many times its first C
FINE = 1.0005  # C is found to this factor: latents that are nearly as telling enter nearly together
SETTLED = 1e-3  # of the entropy of the labels: with a lower loss nothing is left to explain


def sparse_probes(
    x: csc_array, y: Bool[np.ndarray, " rows"], ks: Sequence[int], selection: str, candidates: int = 8
) -> dict[int, LinearFit]:
    """The probe of each k, on at most k latents: fewer where no more of them tell anything.

    `x` has standardised codes; `candidates` is for greedy, the latents tried at each step. ValueError for another selection,
    and where `y` has one value only.
    """
    if y.all() or not y.any():
        raise ValueError(f"a class with {int(y.sum())} of {len(y)} rows: give rows of it and others.")
    return greedy(x, y, ks, candidates) if selection == "greedy" else by_l1(x, y, ks)


def pull(
    x: csc_array, y: Bool[np.ndarray, " rows"], p: Float64[np.ndarray, "#rows"]
) -> Float64[np.ndarray, " latents"]:
    """How fast a latent's weight would lower the sum of losses: |sum over rows of x (y - p)|."""
    return np.abs(x.T @ (y - p))


def strongest(pulls: Float64[np.ndarray, " latents"], n: int, above: float) -> Int64[np.ndarray, " some"]:
    """The n with the largest pull above a bound; of equal ones the lowest numbers."""
    there = np.flatnonzero(pulls > above)
    return there[np.argsort(-pulls[there], kind="stable")[:n]]


def greedy(x: csc_array, y: Bool[np.ndarray, " rows"], ks: Sequence[int], candidates: int) -> dict[int, LinearFit]:
    """Forward selection: at each step the `candidates` that pull most are refitted with those chosen, and the best stays.

    With one candidate this is orthogonal matching pursuit.
    """
    none = best = refit(x, y, [])
    found: dict[int, LinearFit] = {}
    for size in range(1, max(ks) + 1):
        pulls = pull(x, y, expit(best.logits(x)))
        pulls[best.latents] = 0
        tried = [refit(x, y, np.append(best.latents, j)) for j in strongest(pulls, candidates, 0)]
        if not tried or best.loss < SETTLED * none.loss:
            break
        best = found[size] = min(tried, key=lambda fit: fit.loss)
    return {k: found.get(k, best) for k in ks}


def by_l1(x: csc_array, y: Bool[np.ndarray, " rows"], ks: Sequence[int]) -> dict[int, LinearFit]:
    """The latents of the L1 path, refitted without the penalty. `converged` is of the path's fit and the refit."""
    path, found = L1Path(x, y), {}
    for k in sorted(ks):
        support = path.at_most(k)
        fit = refit(x, y, support.latents)
        found[k] = LinearFit(fit.latents, fit.weights, fit.bias, fit.loss, fit.converged and support.converged)
    return found


class Support(NamedTuple):
    """Latents whose weights are not 0."""

    latents: Int64[np.ndarray, " some"]
    converged: bool


class L1Path:
    """Minima of sum |w| + C * sum of losses over all latents, at any C; the intercept is free."""

    def __init__(self, x: csc_array, y: Bool[np.ndarray, " rows"]):
        self.x, self.y = x, y
        pulls = pull(x, y, np.array([y.mean()]))
        self.working = strongest(pulls, WIDTH, 0)
        self.first = 1 / pulls.max() if len(self.working) else np.inf  # up to here all weights are 0
        self.known = {self.first: Support(np.zeros(0, np.int64), True)}

    def at_most(self, k: int) -> Support:
        """Those of a C with k non-zeros, or else of the largest C (to FINE) with fewer."""
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
            shift = np.where(np.abs(mean) > 1, mean, 0)  # beyond a deviation, coordinate descent would crawl
            # liblinear penalises the intercept: as the weight of a large constant it is as good as free.
            model = LogisticRegression(
                l1_ratio=1.0, C=c, solver="liblinear", intercept_scaling=1000, tol=1e-6, max_iter=2000, random_state=0
            )
            converged = fit_converges(model, rows - shift, labels, weight)
            w, bias = parameters(model)
            chosen = w != 0
            fit = LinearFit(self.working[chosen], w[chosen], bias - float(w @ shift), np.nan, converged)
            pulls = pull(self.x, self.y, expit(fit.logits(self.x)))
            pulls[self.working] = 0
            missing = strongest(pulls, WIDTH, (1 + SLACK) / c)
            if not len(missing):
                return Support(np.sort(fit.latents), converged)
            self.working = np.concatenate([self.working, missing])
