"""How the numbers of a bench are written, in the terminal and on the page."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import polars as pl
from rich.table import Table
from rich.text import Text

from saev.dictionary_bench.measures import MEASURES
from saev.visuals.columns import MISSING, digits
from saev.visuals.tables import new_table

Verdict = Literal["better", "worse", "not shown", ""]


def written(value: float | None, signed: bool = False) -> str:
    """Three digits; a dash where it is missing.

    >>> written(0.12345), written(-0.5, signed=True), written(12.345), written(None)
    ('0.123', '-0.500', '12.3', '–')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:.3f}" if abs(value) < 10 else digits(value)
    return f"+{text}" if signed and value > 0 else text


def ends(row: Mapping[str, Any], low: str = "low", high: str = "high") -> str:
    """[low, high]; nothing where there is no interval."""
    return "" if row[low] is None else f"[{written(row[low])}, {written(row[high])}]"


def verdict(row: Mapping[str, Any]) -> Verdict:
    """Whether a dictionary is better than the one it is compared with.

    Not shown where the interval of the difference holds 0, where p is known and above .05 after Holm, where the difference of what each
    has above its own null is of the other sign, or, of a better one, where it is no better than its own null."""
    better = MEASURES[row["measure"]].better
    if row["diff_low"] is None or not better:
        return ""
    if row["diff_low"] <= 0 <= row["diff_high"]:
        return "not shown"
    if row["p_holm"] is not None and row["p_holm"] > 0.05:
        return "not shown"
    if row["diff_above_null"] is not None and (row["diff_above_null"] > 0) != (row["diff"] > 0):
        return "not shown"
    if (row["diff_low"] > 0) != (better == "higher"):
        return "worse"
    return "better" if is_above_null(row) else "not shown"


def is_above_null(row: Mapping[str, Any]) -> bool:
    """Whether a measure is better than its null, beyond its interval where there is one."""
    higher = MEASURES[row["measure"]].better == "higher"
    nearest = row["low" if higher else "high"]
    nearest = row["value"] if nearest is None else nearest
    return row["null"] is None or nearest is None or (nearest > row["null"] if higher else nearest < row["null"])


def measured_names(measures: pl.DataFrame) -> list[str]:
    """The measures that at least one dictionary has, in the order of MEASURES."""
    known = {*measures.filter(pl.col("value").is_not_null())["measure"]}
    return [name for name in MEASURES if name in known]


def left_out(measures: pl.DataFrame) -> list[tuple[str, str]]:
    """(label, reason) of the measures that no dictionary has."""
    rows = measures.filter(pl.col("value").is_null()).unique("measure", keep="first", maintain_order=True)
    shown = {*measured_names(measures)}
    return [
        (MEASURES[name].label, str(reason))
        for name, reason in rows.select("measure", "reason").iter_rows()
        if name not in shown
    ]


def bench_table(measures: pl.DataFrame) -> Table:
    """A row per measure, a column per dictionary: the value, its null in brackets, and the difference from the reference."""
    members = measures["member"].unique(maintain_order=True).to_list()
    cells = {(row["measure"], row["member"]): row for row in measures.iter_rows(named=True)}
    names = measured_names(measures)
    notes = [
        f"{MEASURES[name].label}: {MEASURES[name].meaning}; null: {MEASURES[name].null or MISSING}" for name in names
    ]
    table = new_table("measure (null)", notes, [])
    for member in members:
        table.add_column(Text(member), justify="right", overflow="fold")
    for name in names:
        arrow = {"higher": " ↑", "lower": " ↓", "": ""}[MEASURES[name].better]
        table.add_row(Text(MEASURES[name].label + arrow), *(cell(cells.get((name, member))) for member in members))
    return table


def cell(row: Mapping[str, Any] | None) -> Text:
    """A measure of a dictionary; dim where it is not better than its null."""
    if row is None or row["value"] is None:
        return Text(MISSING)
    text = written(row["value"]) + ("" if row["null"] is None else f" ({written(row['null'])})")
    if row["diff"] is not None:
        text += f"\n{written(row['diff'], signed=True)} {ends(row, 'diff_low', 'diff_high')}".rstrip()
    return Text(text, style="" if is_above_null(row) else "dim")
