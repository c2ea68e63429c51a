"""Results as tables in the terminal: a row per dictionary, with `--explain` a caption that says what the columns mean.

Without lines between the columns, names like `sae=relu,sparsity=4e-3` fit into 80 characters.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from saev.visuals.columns import COLUMNS, EVALUATION, PROBE, Column, failed, mark

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


def evaluation_table(rows: Rows) -> Table:
    """The results of `saev evaluate`, in the given order; columns that no row has are left out."""
    columns = [column for column in EVALUATION if any(column.key in row for row in rows)]
    table = new_table("dictionary", [f"{column.label}: {column.meaning}" for column in columns], columns)
    for row in rows:
        table.add_row(named(row), *(column.text(row) for column in columns))
    return table


def probe_table(rows: Rows) -> Table:
    """The results of `saev probe`: a row per dictionary and null, in the given order."""
    columns = [column for column in PROBE if any(row.get(column.key) is not None for row in rows)]
    intervals = any(row.get("map_low") is not None for row in rows)
    table = new_table("dictionary", [f"{column.label}: {column.meaning}" for column in columns], [])
    for column in columns:
        table.add_column(column.label, justify="right", no_wrap=True)
        if column.key == "map" and intervals:
            table.add_column("95 %", no_wrap=True, style="dim")
    for row in rows:
        name = str(row["member"]) if row["labels"] == "true" else f"{row['member']} ({row['labels']} labels)"
        cells = []
        for column in columns:
            cells.append(column.text(row))
            if column.key == "map" and intervals:
                cells.append(f"{row['map_low']:.3f}–{row['map_high']:.3f}" if row.get("map_low") is not None else "")
        table.add_row(name, *cells)
    return table


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
