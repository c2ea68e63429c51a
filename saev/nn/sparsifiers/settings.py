"""Settings of every sparsifier; codes f, pre-activations h. No torch here: the command line derives its schema from these fields."""

import dataclasses
from importlib import import_module
from typing import Any, ClassVar

from saev.settings import bounded, check, shown


@dataclasses.dataclass(frozen=True)
class SparsifierSettings:
    """How pre-activations become codes: what config.json stores, as {kind, ...fields}."""

    kind: ClassVar[str]
    peak_matrices: ClassVar[int] = (
        5  # [batch, d_sae] arrays alive at once in a step, at most (docs/sweeps.md: measured)
    )

    def __post_init__(self):
        check(self)

    def build(self, d_sae: int) -> Any:
        """A new module for d_sae latents: `<class>Sparsifier` in the file named after the kind."""
        module = import_module(f"saev.nn.sparsifiers.{self.kind}")
        return getattr(module, f"{type(self).__name__}Sparsifier")(self, d_sae)

    def check_width(self, d_sae: int) -> None:
        """ValueError where the settings ask for more active latents than there are."""
        for key in ("k", "l0_target"):
            value = getattr(self, key, None)
            if value is not None and value > d_sae:
                raise ValueError(f"{key}={value} is more than d_sae={d_sae}: lower {key} or raise d_sae.")

    def as_dict(self) -> dict[str, Any]:
        """{kind, ...fields}."""
        return {"kind": self.kind, **dataclasses.asdict(self)}

    @property
    def name(self) -> str:
        """Kind and the fields that differ from their defaults.

        >>> BatchTopK(k=32).name, JumpReLU(l0_target=16).name
        ('batchtopk,k=32', 'jumprelu,l0_target=16')
        """
        values = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        return ",".join([self.kind, *(f"{key}={shown(v)}" for key, (v, default) in values.items() if v != default)])


@dataclasses.dataclass(frozen=True)
class _Selecting(SparsifierSettings):
    k: int = bounded(at_least=1)  # active latents per token


@dataclasses.dataclass(frozen=True)
class TopK(_Selecting):
    """The k largest of relu(h) per token (Gao et al. 2024, section 2.3); with `threshold` evaluated as f = h [h > theta].

    The threshold lets the number of active latents vary with the token (their appendix F).
    """

    kind: ClassVar[str] = "topk"
    threshold: bool = False


@dataclasses.dataclass(frozen=True)
class BatchTopK(_Selecting):
    """The batch * k largest of relu(h) over the whole batch; evaluated as f = h [h > theta] (Bussmann et al. 2024)."""

    kind: ClassVar[str] = "batchtopk"


@dataclasses.dataclass(frozen=True)
class _Penalised(SparsifierSettings):
    sparsity: float = bounded(at_least=0)  # coefficient of the penalty
    l0_target: float | None = bounded(None, above=0)  # active latents per token to steer the coefficient towards

    def __post_init__(self):
        super().__post_init__()
        if self.l0_target is not None and self.sparsity == 0:
            raise ValueError(
                f"sparsity=0 with l0_target={self.l0_target}: the coefficient is steered by factors and must start above 0, "
                "e.g. sparsity=1e-3."
            )


@dataclasses.dataclass(frozen=True)
class ReLU(_Penalised):
    """f = max(h, 0), made sparse by an L1 penalty (Bricken et al. 2023; Cunningham et al. 2023).

    The penalty is sparsity * mean over the batch of sum_j f_j, with atoms of unit norm. With `atom_norm` atoms keep their norms
    and it is sparsity * mean over the batch of sum_j f_j ||w_j|| (Conerly et al. 2024), a function of f ||w||, which are the
    codes that `encode` returns and that are saved.
    """

    kind: ClassVar[str] = "relu"
    atom_norm: bool = False


@dataclasses.dataclass(frozen=True)
class Gated(_Penalised):
    """f = [pi > 0] relu(exp(r) h + b_mag) with pi = h + b_gate, h = (z - b_dec) @ w_enc (Rajamanoharan et al. 2024a).

    The gate learns from the penalty, sparsity * mean over the batch of sum_j relu(pi_j), and from an auxiliary
    reconstruction by relu(pi) through a decoder that takes no gradient from it (section 3.2 of the paper).
    """

    kind: ClassVar[str] = "gated"
    peak_matrices: ClassVar[int] = 8


@dataclasses.dataclass(frozen=True)
class JumpReLU(SparsifierSettings):
    """f_j = h_j [h_j > theta_j], a learned threshold per latent (Rajamanoharan et al. 2024b).

    Penalty, a mean over the batch: sparsity * L0; with `tanh` = c sparsity * sum_j tanh(c f_j) (Conerly et al. 2025); with
    `l0_target` instead ((L0 - l0_target)/l0_target)^2, L0 being that of the whole batch.
    """

    kind: ClassVar[str] = "jumprelu"
    sparsity: float = bounded(1e-3, at_least=0)
    l0_target: float | None = bounded(None, above=0)
    bandwidth: float = bounded(0.5, above=0)  # of the gradient estimators, in units of the pre-activations' spread
    tanh: float | None = bounded(None, above=0, hint="null for the L0 penalty")
    pace: float = bounded(64.0, above=0)  # a threshold moves by about lr * pace * that spread per step

    def __post_init__(self):
        super().__post_init__()
        if self.tanh is not None and self.l0_target is not None:
            raise ValueError(f"tanh={self.tanh} has no effect beside l0_target={self.l0_target}: drop one of them.")


SPARSIFIERS: dict[str, type[SparsifierSettings]] = {cls.kind: cls for cls in (ReLU, TopK, BatchTopK, JumpReLU, Gated)}
