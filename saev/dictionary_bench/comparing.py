"""Is one dictionary better than another? Differences of all measures from one row, and means over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from saev.dictionary_bench.measured import Measured
from saev.dictionary_bench.measures import MEASURES
from saev.evaluation.evaluating import describe
from saev.metrics.paired import difference, holm, over_seeds, seed_groups, sign_flip_p
from saev.probing.labels import closest
from saev.saved import SavedDictionary
from saev.shards.selected_tokens import Selection

Measures = Mapping[str, Measured]


def measure_rows(results: Mapping[str, Measures], against: str | None, permutations: int = 1000) -> pl.DataFrame:
    """A row per dictionary and measure: value, low, high, null, n, `reason` where it was not measured, and its difference from `against`.

    diff, diff_low, diff_high: of the same resamples of the images; chosen latents, probes and coalitions stay the same in all.
    p: two-sided, by exchanging the two dictionaries within each of the things that the measure is the mean of (images, classes, concepts),
    `permutations` times; null where it is the mean of latents, which two dictionaries do not share. p_holm: over a row's measures.
    """
    rows = []
    for member, measures in results.items():
        for name in (name for name in MEASURES if name in measures):
            measured = measures[name]
            row = {
                "member": member,
                "measure": name,
                **unprefixed(measured, name),
                "reason": measured.details.get("reason"),
            }
            if against is not None and member != against and name in results[against]:
                row |= against_columns(measured, results[against][name], permutations)
            rows.append(row)
    schema = {
        **dict.fromkeys(("member", "measure"), pl.String), **dict.fromkeys(("value", "low", "high", "null"), pl.Float64), "n": pl.Int64,
        "reason": pl.String, **dict.fromkeys(("diff", "diff_low", "diff_high", "p", "p_holm"), pl.Float64),
    }  # fmt: skip
    table = pl.DataFrame(rows, schema=schema).with_columns(pl.selectors.float().fill_nan(None))
    adjusted = [
        holm(part["p"].fill_null(float("nan")).to_numpy()) for part in table.partition_by("member", maintain_order=True)
    ]
    return table.with_columns(p_holm=pl.Series(np.concatenate(adjusted))).with_columns(pl.col("p_holm").fill_nan(None))


def unprefixed(measured: Measured, name: str) -> dict[str, Any]:
    """value, low, high, null and n."""
    columns = measured.columns(name)
    return {key.removeprefix(name).lstrip("_") or "value": value for key, value in columns.items()}


def against_columns(one: Measured, other: Measured, permutations: int) -> dict[str, float]:
    """diff, diff_low, diff_high and p of two results of one measure."""
    if not np.isfinite([one.value, other.value]).all():
        return {}
    drawn = len(one.draws) == len(other.draws)
    draws = (one.draws, other.draws) if drawn else (np.zeros(0), np.zeros(0))
    diff, low, high = difference(one.value, other.value, *draws)
    columns = {"diff": diff, "diff_low": low, "diff_high": high}
    if len(one.units) and len(one.units) == len(other.units):
        columns["p"] = sign_flip_p(one.units - other.units, permutations)
    return columns


def reference(against: str, saved: Sequence[SavedDictionary]) -> str:
    """The name of the row that `against` means: a dictionary's name, a kind of baseline or of frozen SAEs, or a part of a name.

    ValueError where that is none of them, or several.
    """
    names = [one.name for one in saved]
    settings = {one.name: one.config.get("hyperparameters") or {} for one in saved}
    kinds = {name: {settings[name].get(key) for key in ("baseline", "variant", "freeze")} for name in names}
    for meant in (
        [name for name in names if name == against],
        [name for name in names if against in kinds[name]],
        [name for name in names if against in name],
    ):
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise ValueError(
                f"against={against} means {len(meant)} of the dictionaries: give one of {', '.join(meant)}."
            )
    raise ValueError(f"against={against} is none of the dictionaries{closest(against, names)}")


def result_rows(
    saved: Sequence[SavedDictionary], chosen: Mapping[str, Selection], results: Mapping[str, Measures]
) -> list[dict[str, Any]]:
    """A row per dictionary: what it is, on what it was measured, and the columns of each measure."""
    rows = []
    for one in saved:
        measures = results[one.name]
        columns = {
            key: value for name in MEASURES if name in measures for key, value in measures[name].columns(name).items()
        }
        rows.append(describe(one, chosen[one.name]) | columns)
    return rows


def seed_rows(rows: Sequence[Mapping[str, Any]], settings: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A row per group of two or more dictionaries that differ by their seed alone: the mean and the standard deviation of each measure."""
    groups = seed_groups(settings)
    out = []
    for group in range(int(groups.max()) + 1 if len(groups) else 0):
        members = [row for row, number in zip(rows, groups, strict=True) if number == group]
        if len(members) < 2:
            continue
        row: dict[str, Any] = {"member": str(members[0]["member"]), "n_seeds": len(members)}
        for name in MEASURES:
            values = [float("nan") if one.get(name) is None else one[name] for one in members]
            if np.isfinite(values).any():
                row |= dict(zip((name, f"{name}_std"), over_seeds(values)[:2], strict=True))
        out.append(row)
    return pl.DataFrame(out, infer_schema_length=None)
