"""The baselines by their settings: what a notebook writes, what conf/baseline/*.yaml builds. `build` returns a new fitter."""

import dataclasses
from importlib import import_module
from typing import Any, ClassVar, Literal

from saev.settings import bounded, check


@dataclasses.dataclass(frozen=True)
class BaselineSettings:
    """The settings of one baseline; the subclass declares its fields."""

    kind: ClassVar[str]

    def __post_init__(self):
        check(self)

    def build(self) -> Any:
        """A new fitter with these settings: `<class>Fitter` in the file named after the kind."""
        return getattr(import_module(f"saev.baselines.{self.kind}"), f"{type(self).__name__}Fitter")(self)

    def row(self) -> dict[str, Any]:
        """The kind and the settings with one value, for tables."""
        values = dataclasses.asdict(self).items()
        return {"baseline": self.kind} | {k: v for k, v in values if not isinstance(v, list | tuple)}


@dataclasses.dataclass(frozen=True)
class KMeans(BaselineSettings):
    """Centroids of k-means: faiss on a sample, then exact Lloyd passes over the stream."""

    kind = "kmeans"
    n_latents: int = bounded(1024, at_least=1)  # centroids
    passes: int = bounded(10, at_least=1)  # at most
    seed: int = 0  # of the start, and of how empty clusters are filled
    n_init: int = bounded(1, at_least=1)  # starts on the sample, of which the one with the least inertia is used
    code: Literal["onehot", "inverse"] = "onehot"  # onehot: L0 = 1; inverse: 1 / distance to every centroid
    tol: float = bounded(1e-4, at_least=0)  # stop after a pass that lowers the inertia by a smaller fraction


@dataclasses.dataclass(frozen=True)
class PCA(BaselineSettings):
    """Principal components: one dictionary per entry of `k`, from a single pass."""

    kind = "pca"
    # codes kept per token; None: all; entries above the rank are left out
    k: tuple[int | None, ...] = (1, 4, 16, 64, 256, 1024)
    rank: int | None = bounded(None, at_least=1)  # components; None: d_model
    whiten: bool = False  # divide each code by its standard deviation over the training tokens

    def __post_init__(self):
        if isinstance(self.k, int | str) or not all(n is None or (type(n) is int and n >= 1) for n in self.k):
            raise ValueError(
                f"k={self.k} of PCA: must be a list of integers of at least 1, null for all codes, e.g. baseline.k=[4,16]."
            )
        object.__setattr__(self, "k", tuple(self.k))
        check(self)


@dataclasses.dataclass(frozen=True)
class RandomVectors(BaselineSettings):
    """Random vectors as atoms.

    `tokens`: a uniform sample of tokens without repetition; `gaussian`: drawn from N(mean, covariance) of the tokens;
    `untrained`: unit vectors of random direction, an SAE at its random start, which need no pass over the data.
    """

    kind = "random_vectors"
    n_latents: int = bounded(1024, at_least=1)
    k: int | None = bounded(32, at_least=1)  # codes kept per token; None: all projections
    seed: int = 0
    variant: Literal["tokens", "gaussian", "untrained"] = "tokens"
    refit: bool = True  # least-squares codes on the selected atoms
    centred: bool = True  # subtract the mean of the tokens
    unit_norm: bool = True

    def __post_init__(self):
        check(self)
        if self.k is not None and self.k > self.n_latents:
            raise ValueError(f"k={self.k}: must be at most n_latents={self.n_latents} (null: all).")


@dataclasses.dataclass(frozen=True)
class SemiNMF(BaselineSettings):
    """Semi-nonnegative matrix factorisation: z ~ F A with F >= 0."""

    kind = "semi_nmf"
    n_latents: int = bounded(1024, at_least=1)
    passes: int = bounded(10, at_least=1)
    seed: int = 0  # of the k-means that it starts from
    iterations: int = bounded(100, at_least=1)  # of ADMM, for the codes of a batch
    l1_penalty: float = bounded(0.0, at_least=0, at_most=1e30)
