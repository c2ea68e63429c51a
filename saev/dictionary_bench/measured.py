"""The result of one measure of one dictionary."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Shaped

from saev.dictionary_bench.measures import MEASURES
from saev.metrics.resampling import interval


@dataclasses.dataclass(frozen=True)
class Measured:
    """A number beside its null and its interval; NaN where it cannot be computed.

    Args:
        value: of all images; `null`: the same where what it measures is shuffled away (each measure says how), `n`: of what it is the
            mean or fraction, e.g. latents or classes.
        draws: the value in each resample of the images, the same resamples for all dictionaries; empty: no interval.
        latents: columns with a number per latent, NaN where a latent has none.
        details: further numbers that a reader may want.
        units: the values of the things that all dictionaries have in common, e.g. a number per class, in one order; empty: there are none.
        nulls: the null of each permutation, of which `null` is the mean; empty where there are none.
    """

    value: float
    null: float = float("nan")
    n: int = 0
    draws: Float64[np.ndarray, " n"] = dataclasses.field(default_factory=lambda: np.zeros(0), repr=False)
    latents: Mapping[str, Shaped[np.ndarray, " n_latents"]] = dataclasses.field(default_factory=dict, repr=False)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    units: Float64[np.ndarray, " units"] = dataclasses.field(default_factory=lambda: np.zeros(0), repr=False)
    nulls: Float64[np.ndarray, " permutations"] = dataclasses.field(default_factory=lambda: np.zeros(0), repr=False)

    def columns(self, name: str) -> dict[str, float | int | None]:
        """name, name_low, name_high (95 % over images), name_null and name_n: columns of a table, None for what is not finite."""
        low, high = np.clip(interval(self.draws, self.value), *MEASURES[name].bounds)
        numbers = {"": self.value, "_low": low, "_high": high, "_null": self.null}
        return {name + key: float(x) if np.isfinite(x) else None for key, x in numbers.items()} | {f"{name}_n": self.n}

    def p_null(self, better: Literal["higher", "lower", ""]) -> float:
        """One-sided p against chance, (1 + permutations at least as good as the value) / (1 + permutations); NaN without any."""
        if not len(self.nulls) or not np.isfinite(self.value) or not better:
            return float("nan")
        sign = 1 if better == "higher" else -1
        nearly = abs(self.value) * 1e-9 + 1e-300  # equal but for rounding is equal
        return float((1 + np.count_nonzero(sign * (self.nulls - self.value) >= -nearly)) / (1 + len(self.nulls)))


def absent(reason: str) -> Measured:
    """The result of a measure that was left out."""
    return Measured(float("nan"), details={"reason": reason})
