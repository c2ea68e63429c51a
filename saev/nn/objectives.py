"""What training minimises: the reconstruction error, of the whole dictionary or averaged over prefixes of it.

Settings only, without torch; `saev.nn.decoding.reconstruction_error` computes the loss.
"""

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from saev.settings import bounded, check


class Objective(ABC):
    """Which prefixes of the dictionary are decoded; the loss is the mean of their squared errors."""

    kind: ClassVar[str]  # its option of conf/objective

    @abstractmethod
    def ends(self, d_sae: int, step: int = 0) -> list[int]:
        """The number of latents in each prefix, ascending; the last is d_sae. `step` seeds random prefixes."""

    def check_width(self, d_sae: int) -> None:  # noqa: B027 most objectives take any width
        """ValueError where the objective cannot be applied to d_sae latents."""


@dataclasses.dataclass(frozen=True)
class Plain(Objective):
    """The squared error of the whole dictionary."""

    kind: ClassVar[str] = "plain"

    def ends(self, d_sae: int, step: int = 0) -> list[int]:
        return [d_sae]


@dataclasses.dataclass(frozen=True)
class Matryoshka(Objective):
    """The mean squared error over nested prefixes of the dictionary (Bussmann et al. 2025).

    `groups` are the fractions of d_sae that each prefix adds; each group is decoded once.
    """

    kind: ClassVar[str] = "matryoshka"
    groups: Sequence[float] = (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2)

    def __post_init__(self):
        object.__setattr__(self, "groups", tuple(self.groups))
        if not self.groups or min(self.groups) <= 0 or abs(sum(self.groups) - 1) > 1e-6:
            raise ValueError(
                f"objective.groups={list(self.groups)}: must be positive fractions of d_sae that add up to 1."
            )

    def ends(self, d_sae: int, step: int = 0) -> list[int]:
        """The number of latents in each prefix; the last is d_sae.

        >>> Matryoshka().ends(64)
        [4, 8, 16, 32, 64]
        """
        total, ends = 0.0, []
        for fraction in self.groups:
            total += fraction
            ends.append(round(total * d_sae))
        return ends

    def check_width(self, d_sae: int) -> None:
        if any(a == b for a, b in itertools.pairwise([0, *self.ends(d_sae)])):
            raise ValueError(
                f"objective.groups={list(self.groups)} leaves a group of d_sae={d_sae} empty: raise d_sae."
            )


@dataclasses.dataclass(frozen=True)
class RandomMatryoshka(Objective):
    """The mean squared error over random prefixes, redrawn at each step, the last being the whole dictionary.

    `n_prefixes` - 1 different lengths l below d_sae are drawn with a probability proportional to
    l^-power - (l + 1)^-power, a Pareto law: short prefixes are common, so early latents are the most general.
    """

    kind: ClassVar[str] = "matryoshka_random"
    n_prefixes: int = bounded(10, at_least=2)
    power: float = bounded(0.5, above=0)
    seed: int = 0

    def __post_init__(self):
        check(self, "objective.")

    def ends(self, d_sae: int, step: int = 0) -> list[int]:
        """The number of latents in each prefix of a step: the same on every process and after resuming.

        >>> RandomMatryoshka(n_prefixes=3).ends(64, step=0)[-1]
        64
        """
        import numpy as np

        lengths = np.arange(1, d_sae)
        law = lengths**-self.power - (lengths + 1.0) ** -self.power
        rng = np.random.default_rng((self.seed, step))
        drawn = rng.choice(lengths, self.n_prefixes - 1, replace=False, p=law / law.sum())
        return [*np.sort(drawn).tolist(), d_sae]

    def check_width(self, d_sae: int) -> None:
        if self.n_prefixes > d_sae:
            raise ValueError(f"objective.n_prefixes={self.n_prefixes} is more than d_sae={d_sae}: lower n_prefixes.")
