"""What training minimises: reconstruction, plain or over nested prefixes.

Every reconstruction term is a mean over the batch of the squared error of z summed over d_model and divided by
d_model, so that predicting the mean costs 1 whatever the backbone (docs/formats.md gives the factors to other scales).
"""

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from saev.nn.decoding import decode, prefix_errors
from saev.nn.sparsifiers import Codes


class Objective(ABC):
    """How codes are turned into a reconstruction loss."""

    @abstractmethod
    def __call__(
        self,
        z: Float[Tensor, "batch d_model"],
        f: Codes,
        w_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, " d_model"],
        step: int = 0,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_model"]]:
        """(loss, residual z - z_hat of the whole dictionary); `step` seeds what is drawn anew at each training step."""

    def prefixes(self) -> int:
        """How many reconstructions of each token it makes."""
        return 1

    def check(self, d_sae: int) -> None:  # noqa: B027 most objectives take any width
        """ValueError where the objective cannot be applied to d_sae latents."""


@dataclasses.dataclass(frozen=True)
class Plain(Objective):
    """The squared error of the whole dictionary."""

    def __call__(self, z, f, w_dec, b_dec, step=0):
        residual = z - (decode(f, w_dec) + b_dec)
        return residual.square().mean(), residual


@dataclasses.dataclass(frozen=True)
class Matryoshka(Objective):
    """The mean squared error over nested prefixes of the dictionary (Bussmann et al. 2025).

    `groups` are the fractions of d_sae that each prefix adds; each group is decoded once.
    """

    groups: Sequence[float] = (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2)

    def __post_init__(self):
        if not self.groups or min(self.groups) <= 0 or abs(sum(self.groups) - 1) > 1e-6:
            raise ValueError(
                f"objective.groups={list(self.groups)}: give positive fractions of d_sae that add up to 1."
            )

    def prefixes(self) -> int:
        return len(self.groups)

    def ends(self, d_sae: int) -> list[int]:
        """The number of latents in each prefix; the last is d_sae.

        >>> Matryoshka().ends(64)
        [4, 8, 16, 32, 64]
        """
        total, ends = 0.0, []
        for share in self.groups:
            total += share
            ends.append(round(total * d_sae))
        return ends

    def check(self, d_sae: int) -> None:
        ends = [0, *self.ends(d_sae)]
        if any(a == b for a, b in itertools.pairwise(ends)):
            raise ValueError(
                f"objective.groups={list(self.groups)} leaves a group of d_sae={d_sae} empty: raise d_sae."
            )

    def __call__(self, z, f, w_dec, b_dec, step=0):
        return over_prefixes(z, f, w_dec, b_dec, self.ends(len(w_dec)))


@dataclasses.dataclass(frozen=True)
class RandomMatryoshka(Objective):
    """The mean squared error over prefixes drawn anew at each step, the last being the whole dictionary.

    `n_prefixes` - 1 different lengths l below d_sae are drawn with a probability proportional to
    l^-power - (l + 1)^-power, a Pareto law: short prefixes are common, so early latents are the most general.
    """

    n_prefixes: int = 10
    power: float = 0.5
    seed: int = 0

    def __post_init__(self):
        if self.n_prefixes < 2 or not self.power > 0:
            raise ValueError(
                f"objective.n_prefixes={self.n_prefixes}, objective.power={self.power}: give at least 2 and above 0."
            )

    def prefixes(self) -> int:
        return self.n_prefixes

    def ends(self, d_sae: int, step: int) -> list[int]:
        """The number of latents in each prefix of a step: the same on every process and after resuming.

        >>> RandomMatryoshka(n_prefixes=3).ends(64, step=0)[-1]
        64
        """
        lengths = np.arange(1, d_sae)
        law = lengths**-self.power - (lengths + 1.0) ** -self.power
        rng = np.random.default_rng((self.seed, step))
        drawn = rng.choice(lengths, self.n_prefixes - 1, replace=False, p=law / law.sum())
        return [*np.sort(drawn).tolist(), d_sae]

    def check(self, d_sae: int) -> None:
        if self.n_prefixes > d_sae:
            raise ValueError(f"objective.n_prefixes={self.n_prefixes} is more than d_sae={d_sae}: take fewer.")

    def __call__(self, z, f, w_dec, b_dec, step=0):
        return over_prefixes(z, f, w_dec, b_dec, self.ends(len(w_dec), step))


def over_prefixes(
    z: Float[Tensor, "batch d_model"],
    f: Codes,
    w_dec: Float[Tensor, "d_sae d_model"],
    b_dec: Float[Tensor, " d_model"],
    ends: Sequence[int],
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_model"]]:
    """(mean over prefixes of the squared error of z, mean over batch and dimensions; residual of the last prefix)."""
    return prefix_errors(f, w_dec, z - b_dec, ends)
