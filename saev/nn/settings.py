"""Settings of one SAE of a bank. No torch here: the command line derives its schema from these fields."""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from saev.nn.objectives import Objective, Plain
from saev.nn.sparsifiers import SparsifierSettings
from saev.settings import bounded, check

if TYPE_CHECKING:
    from torch import Tensor

    from saev.nn.bank import TrainingMember
    from saev.nn.normalise import Normaliser

COLUMNS = ("sparsity", "l0_target", "k")  # settings of sparsifiers that are columns of tables
Init = Literal["data", "tokens", "random", "kmeans", "archetypal"]
Freeze = Literal["none", "decoder", "encoder", "soft", "all"]
Centre = Literal["median", "mean"]
CLUSTERED = ("kmeans", "archetypal")
SAMPLE = 16384  # tokens from which the centre is computed
PER_CENTROID = 50  # tokens in the sample; faiss advises 39
PER_ATOM = 8  # tokens in the sample that atoms are drawn from: two seeds share about an eighth of their tokens


@dataclasses.dataclass(frozen=True)
class AuxK:
    """An auxiliary loss that lets dead latents explain the residual (Gao et al. 2024, appendix A.2): `saev.nn.auxk`."""

    coefficient: float = bounded(1 / 32, at_least=0)
    k: int | None = bounded(None, at_least=1)  # dead latents used per token; None: d_model / 2
    dead_tokens: int | None = bounded(
        None, at_least=1
    )  # a latent is dead when it has not fired for this many tokens; None: a tenth of the run's, at most 10 M

    def __post_init__(self):
        check(self, "auxk.")

    def window(self, n_tokens: int | None = None) -> int:
        """`dead_tokens`; if that is None, a tenth of the run's `n_tokens`, at most 10 M (`n_tokens` None: 10 M)."""
        if self.dead_tokens is not None:
            return self.dead_tokens
        return 10_000_000 if n_tokens is None else min(10_000_000, max(1, n_tokens // 10))


@dataclasses.dataclass(frozen=True)
class Free:
    """Atoms are free unit vectors."""

    kind: ClassVar[str] = "free"
    points: ClassVar[None] = None

    def check(self, init: Init) -> None:
        """Every initialisation fits."""


@dataclasses.dataclass(frozen=True)
class Archetypal:
    """Atoms are unit rows of convex combinations of centroids plus a residual of norm at most delta (RA-SAE, eq. 4).

    The centroids are directions (seen from the initial b_dec) of unit norm, so delta is the residual relative to an archetype; at
    delta = 0 atoms are within the cone of the data.
    """

    kind: ClassVar[str] = "archetypal"
    points: int | None = bounded(None, at_least=1)  # centroids to combine; None: one per atom
    delta: float = bounded(1.0, at_least=0)  # largest norm of the residual

    def __post_init__(self):
        check(self, "decoder.")

    def check(self, init: Init) -> None:
        """ValueError where atoms would not start as combinations of these centroids."""
        if init not in CLUSTERED:
            raise ValueError(
                f"decoder=archetypal with init={init}: its atoms start as combinations of centroids; add init=archetypal."
            )
        if init == "kmeans" and self.points is not None:
            raise ValueError(
                f"decoder.points={self.points} with init=kmeans, which starts from one centroid per atom: set init=archetypal."
            )


@dataclasses.dataclass(frozen=True)
class Member:
    """The settings of one SAE, independent of the data's width.

    >>> from saev.nn import BatchTopK
    >>> Member(BatchTopK(k=32)).name
    'batchtopk,k=32'
    """

    sparsifier: SparsifierSettings
    name: str = None  # type: ignore[assignment]  # default: the sparsifier's kind and settings
    objective: Objective = dataclasses.field(default_factory=Plain)
    auxk: AuxK = dataclasses.field(default_factory=AuxK)
    lr: float | None = bounded(None, above=0)  # None: by the length of the run (`rate`)
    d_sae: int | None = bounded(None, at_least=1)  # latents; None: expansion * d_model
    expansion: float = bounded(8, above=0)
    seed: int = 0  # of the initialisation
    init: Init = "data"
    b_dec: Centre = "median"  # initial b_dec: the sample's geometric median or its mean
    decoder: Free | Archetypal = dataclasses.field(default_factory=Free)
    freeze: Freeze = "none"  # what stays as at the start: saev.nn.freezing
    label: str | None = None  # what it is in a study, e.g. untrained: in legends in place of its settings

    def __post_init__(self):
        if self.name is None:
            object.__setattr__(self, "name", self.sparsifier.name)
        check(self)
        if self.freeze == "soft" and isinstance(self.decoder, Archetypal):
            raise ValueError(
                "freeze=soft with decoder=archetypal: both constrain the atoms; set freeze=decoder, or decoder=free (its nulls: "
                "experiment=nulls_archetypal)."
            )

    def row(self) -> dict[str, Any]:
        """The settings as columns of a table; of the sparsifier those that every kind of its family has."""
        kinds = {"sae": self.sparsifier.kind, "objective": self.objective.kind, "decoder": self.decoder.kind}
        shared = {key: getattr(self.sparsifier, key) for key in COLUMNS if hasattr(self.sparsifier, key)}
        groups = ("sparsifier", "name", "objective", "auxk", "decoder", *(() if self.label else ("label",)))
        scalars = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in groups}
        return {**kinds, **shared, **scalars, "dead_tokens": self.auxk.dead_tokens}

    def rate(self, n_tokens: int | None = None) -> float:
        """lr, or for None the learning rate of a run of `n_tokens` training tokens: the longer, the lower
        (docs/log/2026-11-27-defaults.md).

        >>> from saev.nn import TopK
        >>> [Member(TopK(8)).rate(n) for n in (50_000, 1_000_000, 10_000_000, 100_000_000)]
        [0.003, 0.003, 0.0009, 0.0003]
        """
        by_length = 3e-3 * min(1.0, max(0.1, (1e6 / (n_tokens or 4e6)) ** 0.5))
        return float(f"{by_length:.1g}") if self.lr is None else self.lr

    def width(self, d_model: int) -> int:
        """d_sae for activations of width `d_model`; ValueError where the settings do not fit it."""
        d_sae = round(self.expansion * d_model) if self.d_sae is None else self.d_sae
        self.sparsifier.check_width(d_sae)
        self.objective.check_width(d_sae)
        self.decoder.check(self.init)
        return d_sae

    def n_centroids(self, d_model: int) -> int:
        """The number of centroids that the initialisation needs: one per atom, or `decoder.points`; 0 without clustering."""
        return (self.decoder.points or self.width(d_model)) if self.init in CLUSTERED else 0

    def sample_tokens(self, d_model: int) -> int:
        """Number of tokens in the sample that `build` needs."""
        drawn = PER_ATOM * self.width(d_model) if self.init in ("data", "tokens") else 0
        return max(SAMPLE, PER_CENTROID * self.n_centroids(d_model), drawn)

    def check_tokens(self, d_model: int, n_tokens: float) -> None:
        """ValueError where the initialisation needs more than `n_tokens` training tokens."""
        if (centroids := self.n_centroids(d_model)) > n_tokens:
            raise ValueError(
                f"init={self.init} needs {centroids} centroids, there are {int(n_tokens)} training tokens: lower d_sae (or "
                "decoder.points), take more images, or init=data."
            )

    def build(self, normaliser: "Normaliser", sample: "Tensor", n_tokens: int | None = None) -> "TrainingMember":
        """A new SAE, initialised from a sample [n, d_model] of normalised activations, for a run of `n_tokens` tokens."""
        from saev.nn.autoencoder import SparseAutoencoder
        from saev.nn.bank import TrainingMember
        from saev.nn.initialise import initialise

        d_model = sample.shape[1]
        sae = SparseAutoencoder(d_model, self.width(d_model), self.sparsifier, normaliser)
        initialise(sae, sample, self.init, self.seed, self.b_dec, self.decoder)
        return TrainingMember(self.name, sae, self.objective, self.auxk, self.rate(n_tokens), n_tokens, self.freeze)
