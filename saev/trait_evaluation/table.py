"""Which image, or which token, has which trait."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int8, Int64

from saev.images.tables import shortened

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TraitTable:
    """A row per unit, a column per trait: 1 has the trait, 0 has it not, -1 not known."""

    names: tuple[str, ...]  # of the traits, all different
    values: Int8[np.ndarray, "units traits"]

    def __post_init__(self):
        if len({*self.names}) < len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"traits: two traits are called {shortened(twice)}; rename one of them.")
        assert self.values.shape[1] == len(self.names)

    def counts(self) -> Int64[np.ndarray, "3 traits"]:
        """Units with each trait, without it, and of which it is not known."""
        return np.stack([(self.values == value).sum(0) for value in (1, 0, -1)])

    def select(self, names: Sequence[str]) -> "TraitTable":
        """The columns of these traits, in this order."""
        column = {name: i for i, name in enumerate(self.names)}
        return TraitTable(tuple(names), self.values[:, [column[name] for name in names]])


class TokenTraits(NamedTuple):
    """Traits of tokens: unit i is token[i] of the stored tokens of image example[i]."""

    example: Int64[np.ndarray, " units"]
    token: Int64[np.ndarray, " units"]
    table: TraitTable


def shared(train: TraitTable, test: TraitTable) -> tuple[TraitTable, TraitTable]:
    """Both tables with the traits that both have, in the order of `train`; the others are logged. ValueError if there are none."""
    names = [name for name in train.names if name in {*test.names}]
    if not names:
        raise ValueError(
            f"traits: the training units have {shortened(train.names)}, the test units {shortened(test.names)}; "
            "no trait is in both: give recordings of the same traits."
        )
    for which, table in (("training", train), ("test", test)):
        if others := [name for name in table.names if name not in {*names}]:
            log.info("%d traits are in the %s units alone and left out: %s", len(others), which, shortened(others, 12))
    return train.select(names), test.select(names)
