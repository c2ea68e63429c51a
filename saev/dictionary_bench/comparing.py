"""Is one dictionary better than another? Differences of all measures from one row, and means over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from saev.dictionary_bench.measured import Measured
from saev.dictionary_bench.measures import MEASURES, decisive
from saev.evaluation.evaluating import describe
from saev.metrics.paired import difference, holm, resampled_p, sign_flip_p
from saev.saved import SavedDictionary
from saev.scoring.against import seed_rows
from saev.shards.selected_tokens import Selection

Measures = Mapping[str, Measured]
FEW = 6  # units: of fewer no exchange gives a p below .05


def measure_rows(
    results: Mapping[str, Measures], against: Sequence[str] = (), permutations: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """A row per dictionary and measure: value, low, high, null, n, `reason` where it was not measured, and its difference from
    the mean of the dictionaries `against`.

    p_null: one-sided, of the value against the permutations whose mean is `null`, where it is one; at least 1 / (1 + their number).
    diff, diff_low, diff_high: of the same resamples of the images; `latents`: whether chosen latents, probes and coalitions stay the same
    in all of them ("fixed") or are chosen "anew"; null where nothing is chosen.
    diff_above_null: the difference of what each has above its own null, as nulls differ between dictionaries.
    p: two-sided; p_by says how: `exchange` of the two dictionaries within each of the things that the measure is the mean of (images,
    classes, concepts, groups of pairs), `permutations` times; where these are fewer than FEW, or the two do not share them (latents), by
    the `resamples` beyond 0. p_holm: over the measures of a dictionary that are better in one direction and `judged`.
    """
    rows = []
    for member, measures in results.items():
        for name in (name for name in MEASURES if name in measures):
            measured = measures[name]
            row = {
                "member": member,
                "measure": name,
                **unprefixed(measured, name),
                "p_null": measured.p_null(MEASURES[name].better),
                "latents": MEASURES[name].latents or None,
                "reason": measured.details.get("reason"),
            }
            if against and member not in against:
                row |= against_columns(
                    name, measured, mean_of([results[one][name] for one in against]), permutations, seed
                )
            rows.append(row)
    schema = {
        **dict.fromkeys(("member", "measure"), pl.String), **dict.fromkeys(("value", "low", "high", "null", "p_null"), pl.Float64),
        "n": pl.Int64,
        "latents": pl.String, "reason": pl.String,
        **dict.fromkeys(("diff", "diff_low", "diff_high", "diff_above_null", "p", "p_holm"), pl.Float64),
        "p_by": pl.String,
    }  # fmt: skip
    table = pl.DataFrame(rows, schema=schema).with_columns(pl.selectors.float().fill_nan(None))
    decides = table["measure"].map_elements(decisive, pl.Boolean)
    table = table.with_columns(p_holm=pl.when(decides).then("p"))
    adjusted = [
        holm(part["p_holm"].fill_null(float("nan")).to_numpy())
        for part in table.partition_by("member", maintain_order=True)
    ]
    return table.with_columns(p_holm=pl.Series(np.concatenate(adjusted))).with_columns(pl.col("p_holm").fill_nan(None))


def unprefixed(measured: Measured, name: str) -> dict[str, Any]:
    """value, low, high, null and n."""
    columns = measured.columns(name)
    return {key.removeprefix(name).lstrip("_") or "value": value for key, value in columns.items()}


def mean_of(several: Sequence[Measured]) -> Measured:
    """The mean of the results of one measure, e.g. of several seeds; without draws or units where one has none."""
    draws, units = ([getattr(one, key) for one in several] for key in ("draws", "units"))
    means = [np.mean(x, 0) if len({len(one) for one in x}) == 1 else np.zeros(0) for x in (draws, units)]
    value, null = (float(np.mean([getattr(one, key) for one in several])) for key in ("value", "null"))
    return Measured(value, null, draws=means[0], units=means[1])


def against_columns(name: str, one: Measured, other: Measured, permutations: int, seed: int) -> dict[str, float | str]:
    """diff, diff_low, diff_high, diff_above_null and p of two results of one measure."""
    if not np.isfinite([one.value, other.value]).all():
        return {}
    drawn = len(one.draws) == len(other.draws)
    draws = (one.draws, other.draws) if drawn else (np.zeros(0), np.zeros(0))
    diff, low, high = difference(one.value, other.value, *draws)
    least, most = MEASURES[name].bounds
    columns: dict[str, float | str] = {
        "diff": diff,
        "diff_low": max(low, least - most),
        "diff_high": min(high, most - least),
        "diff_above_null": diff - (one.null - other.null),
    }
    differences = one.units - other.units if len(one.units) == len(other.units) else np.zeros(0)
    if np.isfinite(differences).sum() >= FEW:
        return columns | {"p": sign_flip_p(differences, permutations, seed), "p_by": "exchange"}
    p = resampled_p(draws[0] - draws[1], diff)
    return columns | ({"p": p, "p_by": "resamples"} if np.isfinite(p) else {})


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


def seed_table(
    rows: Sequence[Mapping[str, Any]], saved: Sequence[SavedDictionary], against: Sequence[str]
) -> pl.DataFrame:
    """`seed_rows` of all measures, of groups of two or more dictionaries that differ by their seed alone."""
    numbers = [name for name in MEASURES if any(row.get(name) is not None for row in rows)]
    groups = [row for row in seed_rows(rows, saved, numbers, against) if row["n_seeds"] > 1]
    return pl.DataFrame(groups, infer_schema_length=None)
