"""A row per latent of a dictionary: how it fires, and what probes, traits and contrasts say about it; filters of these rows."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from saev.codes.store import CodeStore
from saev.explore.results import best_classes, best_contrasts, best_traits, stabilities
from saev.saved import SavedDictionary

ORDER = (
    "name",
    "class",
    "class_ap",
    "trait",
    "trait_ap",
    "trait_gain",
    "pair",
    "p_family",
    "stability",
    "frequency",
    "images",
)  # after the number
TEXTS = ("name", "class", "trait", "pair")
RANGES = {"frequency": (-6.0, 0.0), "value": (-3.0, 3.0)}  # of log10, that can be chosen; their ends mean no bound
SMALLEST = 1e-12  # of which log10 is taken


def latent_table(
    codes: CodeStore, one: SavedDictionary, files: Mapping[str, Sequence[Path]], names: Mapping[int, str]
) -> pl.DataFrame:
    """A row per latent, by latent: firings, images (on which it fires), frequency, mean_value, max_value, log10_frequency and
    log10_value (null where it never fires), its name, and the columns of `best_classes`, `best_traits`, `best_contrasts` and `stabilities`.

    `files`: as of `result_files`. `names`: latent -> name. Columns without any value are left out.
    """
    sha256 = (one.config.get("sha256") or {}).get("weights", "")
    pooled = codes.pooled("max")
    images = np.bincount(pooled.indices, minlength=codes.n_latents)
    named = pl.DataFrame(
        {"latent": [*names], "name": [*names.values()]}, schema={"latent": pl.Int64, "name": pl.String}
    )
    table = codes.latents.select("latent", "firings", "frequency", "mean_value", "max_value")
    table = table.with_columns(
        pl.col("latent").cast(pl.Int64), pl.col("mean_value", "max_value").fill_nan(None), images=images
    )
    logs = {"log10_frequency": "frequency", "log10_value": "mean_value"}
    table = table.with_columns(
        **{name: pl.when(pl.col(of) > SMALLEST).then(pl.col(of)).log10() for name, of in logs.items()}
    )
    for more in (
        named,
        best_classes(files["classes.parquet"], one),
        best_traits(files["traits.parquet"], sha256),
        best_contrasts(files["contrast.parquet"], sha256),
        stabilities(files["stability_latents.parquet"], sha256),
    ):
        if len(more):
            table = table.join(more, "latent", how="left", maintain_order="left")
    known = [name for name in ORDER if name in table.columns]
    return table.select("latent", *known, pl.exclude("latent", *known))


@dataclasses.dataclass(frozen=True)
class Filters:
    """Conditions on rows of `latent_table`; None, "" or 0: none. Ranges include both ends.

    Args:
        frequency, value: ranges of log10 frequency and log10 mean value.
        class_ap: the least average precision of the best class.
        trait_gain: the least AP of the best trait above that of a constant score.
        p_family: the largest family-wise p-value of the best contrast.
        stability: the least fraction of other dictionaries in which it has a partner.
        text: occurs, in any case, in the name, class, trait or pair, or is the latent's number.
        named: with a name alone.
    """

    frequency: tuple[float, float] | None = None
    value: tuple[float, float] | None = None
    class_ap: float = 0.0
    trait_gain: float = 0.0
    p_family: float | None = None
    stability: float = 0.0
    text: str = ""
    named: bool = False

    def conditions(self, columns: Sequence[str]) -> list[pl.Expr]:
        """The conditions on a table of these columns; one on a column that the table lacks is left out."""
        ranges = {"log10_frequency": self.frequency, "log10_value": self.value}
        conditions = [pl.col(name).is_between(*ends) for name, ends in ranges.items() if ends is not None]
        if self.class_ap > 0 and "class_ap" in columns:
            conditions.append(pl.col("class_ap") >= self.class_ap)
        if self.trait_gain > 0 and "trait_gain" in columns:
            conditions.append(pl.col("trait_gain") >= self.trait_gain)
        if self.p_family is not None and "p_family" in columns:
            conditions.append(pl.col("p_family") <= self.p_family)
        if self.stability > 0 and "stability" in columns:
            conditions.append(pl.col("stability") >= self.stability)
        if self.named and "name" in columns:
            conditions.append(pl.col("name").is_not_null())
        if text := self.text.strip().lower():
            inside = [
                pl.col(name).str.to_lowercase().str.contains(text, literal=True) for name in TEXTS if name in columns
            ]
            conditions.append(
                pl.any_horizontal(pl.col("latent").cast(pl.String) == text, *(one.fill_null(False) for one in inside))
            )
        return conditions


def open_ended(name: str, chosen: Sequence[float]) -> tuple[float, float] | None:
    """A range of log10 frequency or value without the ends that are those of RANGES; None where both are.

    >>> open_ended("frequency", (-6.0, -2.0)), open_ended("frequency", (-6.0, 0.0))
    ((-inf, -2.0), None)
    """
    (low, high), (first, last) = chosen, RANGES[name]
    ends = -math.inf if low <= first else low, math.inf if high >= last else high
    return None if ends == (-math.inf, math.inf) else ends


def filtered(table: pl.DataFrame, filters: Filters) -> pl.DataFrame:
    """The rows of `latent_table` that satisfy the filters."""
    return table.filter(*filters.conditions(table.columns))


def first_latent(table: pl.DataFrame) -> int:
    """The latent to show first: best for a class, else for a trait, else with the largest code."""
    best = next(name for name in ("class_low", "class_ap", "trait_gain", "max_value") if name in table.columns)
    return int(table.sort(best, descending=True, nulls_last=True)["latent"][0])
