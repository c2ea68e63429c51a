"""Results as tables in the terminal: a row per dictionary, with `--explain` a caption that says what the columns mean.

Without lines between the columns, names like `sae=relu,sparsity=4e-3` fit into 80 characters.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from saev.visuals.columns import CLASSES, COLUMNS, EVALUATION, IMAGES, MISSING, PROBE, Column, failed, mark

Rows = Sequence[Mapping[str, Any]]


def results_table(rows: Rows) -> Table:
    """The SAEs of a run, in the given order; rows have the keys of results.parquet, columns without a number are left out.

    An SAE that diverged is marked; missing numbers are dashes.
    """
    columns = [column for column in COLUMNS if any(row.get(column.key) is not None for row in rows)]
    counts = sorted({int(row["n_tokens"]) for row in rows if row.get("n_tokens")})
    over = f"held-out tokens: {counts[0]:,}, from images not trained on" if len(counts) == 1 else "held-out tokens"
    meanings = [f"{column.label}: {column.meaning.split('. ')[0].rstrip('.')}" for column in columns]
    table = new_table("SAE", [over, *meanings], columns)
    for row in rows:
        table.add_row(named(row), *(column.text(row) for column in columns), style="dim" if failed(row) else None)
    return table


def evaluation_table(rows: Rows, of: Sequence[Column] = EVALUATION) -> Table:
    """The results of `saev evaluate`, in the given order; columns in which no row has a value are left out."""
    columns = [column for column in of if any(row.get(column.key) is not None for row in rows)]
    table = new_table("dictionary", [f"{column.label}: {column.meaning}" for column in columns], columns)
    for row in rows:
        table.add_row(named(row), *(column.text(row) for column in columns))
    return table


def images_table(rows: Rows) -> Table:
    """The probes of `saev probe` on all latents of whole images: a row per dictionary and pooling."""
    whole = [row for row in rows if row["level"] == "image" and row["k"] is None]
    return probe_table([{**row, "member": f"{row['member']}, {row['pooling']} of an image"} for row in whole], IMAGES)


def probe_table(rows: Rows, columns: Sequence[Column] = PROBE) -> Table:
    """The results of `saev probe`: a row per dictionary, in the given order; its mAP with permuted labels is a column."""
    permuted = {row["member"]: row["map"] for row in rows if row["labels"] != "true"}
    rows = [{**row, "map_permuted": permuted.get(row["member"])} for row in rows if row["labels"] == "true"]
    columns = [column for column in columns if any(row.get(column.key) is not None for row in rows)]
    table = new_table("dictionary", [f"{column.label}: {column.meaning}" for column in columns], columns)
    for row in rows:
        table.add_row(named(row), *(f"{column.text(row)}{ends(row, column.key)}" for column in columns))
    return table


def verdicts(rows: Rows, against: str, key: str, label: str, lower_is_better: bool = False) -> list[str]:
    """A line for each row that was compared with the reference: which has the better number, by how much, and p."""
    compared = [row for row in rows if row.get(f"diff_{key}") is not None]
    return [f"{row['member']}: {label} {verdict(row, key, lower_is_better)}, against {against}" for row in compared]


def verdict(row: Mapping[str, Any], key: str, lower_is_better: bool = False) -> str:
    """The paired difference in words; a dash for a row that was not compared.

    >>> verdict({"diff_map": 0.031, "diff_map_low": 0.022, "diff_map_high": 0.048, "p_map": 0.004}, "map")
    'better by 0.031 [0.022, 0.048], p 0.004'
    >>> verdict({"diff_nmse": 0.031, "diff_nmse_low": -0.01, "diff_nmse_high": 0.08, "p_nmse": None}, "nmse", True)
    'not separated: 0.031 [-0.010, 0.080]'
    """
    diff, low, high, p = (row.get(name) for name in (f"diff_{key}", f"diff_{key}_low", f"diff_{key}_high", f"p_{key}"))
    if diff is None:
        return MISSING
    end = "" if p is None else f", p {p:.1g}"
    if low is None or high is None:
        return f"difference {diff:.3f}{end}"
    if low <= 0 <= high:
        return f"not separated: {diff:.3f} [{low:.3f}, {high:.3f}]{end}"
    low, high = sorted((abs(low), abs(high)))
    return f"{'worse' if (diff > 0) == lower_is_better else 'better'} by {abs(diff):.3f} [{low:.3f}, {high:.3f}]{end}"


def classes_table(rows: Rows, most: int = 12) -> Table:
    """The classes of `saev probe`, each with its best latent over all dictionaries; those with the highest lower end of AP first."""
    best: dict[str, Mapping[str, Any]] = {}
    true = (row for row in rows if row["labels"] == "true" and row["latent"] is not None and row["ap"] is not None)
    for row in sorted(
        true, key=lambda row: (row.get("ap_low") is not None, row.get("ap_low") or row["ap"]), reverse=True
    ):
        best.setdefault(row["class"] or f"class {row['class_id']}", row)
    columns = [column for column in CLASSES if any(row.get(column.key) is not None for row in best.values())]
    table = new_table("class", [f"{column.label}: {column.meaning}" for column in columns], columns)
    shown = list(best.items())[:most]
    annotated = any(row.get("name") for _, row in shown)
    if annotated:
        table.add_column("name", overflow="fold")
    table.add_column("dictionary", overflow="fold")
    for name, row in shown:
        cells = [f"{column.text(row)}{ends(row, column.key)}" for column in columns]
        names = [Text(row.get("name") or "")] if annotated else []
        table.add_row(Text(f"not {name}" if row["sign"] < 0 else name), *cells, *names, named(row))
    if len(best) > most:
        table.add_row(Text(f"{len(best) - most} more in classes.parquet", style="dim"))
    return table


def ends(row: Mapping[str, Any], key: str) -> str:
    """The interval of an AP or accuracy, " [low, high]"; " [–]" where the row has none, "" for other columns."""
    if key not in ("ap", "map", "accuracy") or f"{key}_low" not in row:
        return ""
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return f" [{MISSING}]" if low is None else f" [{low:.3f}, {high:.3f}]"


def new_table(first: str, caption: Sequence[str], columns: Sequence[Column]) -> Table:
    """A table without rows: the names' column, then right-aligned numbers; with `--explain` what they mean, below it."""
    look = {"box": box.SIMPLE_HEAD, "padding": (0, 0, 0, 1), "pad_edge": False}
    meanings = Text("\n".join(caption)) if os.environ.get("SAEV_EXPLAIN") else None  # set by `--explain`
    table = Table(caption=meanings, caption_justify="left", caption_style="dim", **look)
    table.add_column(first, overflow="fold", min_width=10)
    for column in columns:
        table.add_column(column.label, justify="right", no_wrap=True)
    return table


def named(row: Mapping[str, Any]) -> Text:
    """The dictionary's name with its mark. Text: rich would take brackets in a name for markup."""
    name = Text(str(row["member"]))
    return name.append(f" ✗ {text}", style="bold red") if (text := mark(row)) else name
