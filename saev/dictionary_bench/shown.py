"""How the numbers of a bench are written, in the terminal and on the page."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import polars as pl
from rich.table import Table
from rich.text import Text

from saev.dictionary_bench.measures import MEASURES, decisive
from saev.visuals.columns import MISSING, digits
from saev.visuals.tables import new_table

LABEL, COLUMN = (
    20,
    18,
)  # characters of a line of the table in the terminal: of the measure, and of a dictionary with its interval
Verdict = Literal["better", "worse", "not shown", ""]


def written(value: float | None, signed: bool = False) -> str:
    """Three digits; a dash where it is missing.

    >>> written(0.12345), written(-0.5, signed=True), written(12.345), written(-0.0001), written(None)
    ('0.123', '-0.500', '12.3', '0.000', '–')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    value = 0.0 if abs(value) < 0.0005 else value
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
    if row["diff_low"] is None or not decisive(row["measure"]):
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
    if row["null"] is None or nearest is None:
        return True
    ahead = nearest - row["null"] if higher else row["null"] - nearest
    return ahead > 1e-9 * abs(row["null"])


def measured_names(measures: pl.DataFrame) -> list[str]:
    """The measures that at least one dictionary has, in the order of MEASURES."""
    known = {*measures.filter(pl.col("value").is_not_null())["measure"]}
    return [name for name in MEASURES if name in known]


def left_out(measures: pl.DataFrame) -> dict[str, list[str]]:
    """By reason the labels of what was not measured, with the dictionaries where others were measured."""
    members: dict[tuple[str, str], list[str]] = {}
    for row in measures.filter(pl.col("value").is_null()).iter_rows(named=True):
        members.setdefault((row["measure"], str(row["reason"])), []).append(row["member"])
    n, out = measures["member"].n_unique(), {}
    for (name, reason), of in members.items():
        which = ", ".join(of) if len(of) <= 3 else f"{len(of)} dictionaries"
        out.setdefault(reason, []).append(MEASURES[name].label + ("" if len(of) == n else f" of {which}"))
    return out


def differences(measures: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of measures with a difference, but for descriptions, which are neither better nor worse."""
    return [
        row for row in measures.iter_rows(named=True) if row["diff"] is not None and MEASURES[row["measure"]].better
    ]


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per dictionary that is compared, the labels of the measures in which it is better, worse, and neither."""
    out: dict[str, dict[str, Any]] = {}
    for row in rows:
        one = out.setdefault(row["member"], {"member": row["member"], "better": [], "worse": [], "not shown": []})
        if said := verdict(row):
            one[said].append(MEASURES[row["measure"]].label)
    return list(out.values())


def one_per_seed(members: Sequence[str], seeds: pl.DataFrame) -> list[str]:
    """The dictionaries without the further seeds of each."""
    groups = [{*group.split(", ")} for group in seeds["members"]] if len(seeds) else []
    further = {member for group in groups for member in sorted(group & {*members}, key=list(members).index)[1:]}
    return [member for member in members if member not in further]


def verdict_lines(measures: pl.DataFrame, against: str) -> list[str]:
    """For each dictionary that is compared, in what it is better and worse."""
    return [
        f"{one['member']} against {against}: "
        + ("; ".join(f"{kind} in {', '.join(one[kind])}" for kind in ("better", "worse") if one[kind]) or "no difference is shown")
        for one in verdicts(differences(measures))
    ]  # fmt: skip


def bench_tables(measures: pl.DataFrame, members: Sequence[str], width: int) -> list[Table]:
    """Tables of so many of the dictionaries `members` that their columns fit into a terminal of this width."""
    at_once = max(1, (width - LABEL) // COLUMN)
    return [bench_table(measures, members[i : i + at_once]) for i in range(0, len(members), at_once)]


def bench_table(measures: pl.DataFrame, members: Sequence[str]) -> Table:
    """A row per measure, a column per dictionary: the value, its null in brackets, and the difference from the reference."""
    cells = {(row["measure"], row["member"]): row for row in measures.iter_rows(named=True)}
    names = measured_names(measures)
    notes = [
        f"{MEASURES[name].label}: {MEASURES[name].meaning}; null: {MEASURES[name].null or MISSING}" for name in names
    ]
    table = new_table("measure (null)", notes, [])
    for member in members:
        table.add_column(Text(broken(member)), justify="right", overflow="fold")
    for name in names:
        arrow = {"higher": " ↑", "lower": " ↓", "": ""}[MEASURES[name].better]
        table.add_row(Text(MEASURES[name].label + arrow), *(cell(cells.get((name, member))) for member in members))
    return table


def broken(name: str, width: int = COLUMN - 2) -> str:
    """The name in lines of this width, broken behind commas, underscores and slashes.

    >>> broken("decoder_frozen_random,seed=0")
    'decoder_frozen_\\nrandom,seed=0'
    """
    lines = [""]
    for piece in re.split(r"(?<=[,_/])", name):
        lines[-1:] = [lines[-1] + piece] if len(lines[-1] + piece) <= width else [lines[-1], piece]
    return "\n".join(line for line in lines if line)


def cell(row: Mapping[str, Any] | None) -> Text:
    """A measure of a dictionary; dim where it is not better than its null."""
    if row is None or row["value"] is None:
        return Text(MISSING)
    text = written(row["value"]) + ("" if row["null"] is None else f" ({written(row['null'])})")
    if row["diff"] is not None:
        text += f"\n{written(row['diff'], signed=True)}\n{ends(row, 'diff_low', 'diff_high')}".rstrip()
    return Text(text, style="" if is_above_null(row) else "dim")
