"""The results as a table in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from saev.visuals.columns import COLUMNS, Column, failed


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per SAE, in the given order: NMSE, L0, dead and dense latents (% of the dictionary), coherence, tokens/s.

    Columns that no row has are left out. Rows have the keys of results.parquet. An SAE that diverged is marked; numbers that
    are missing are dashes. The caption says what is measured over what.
    """
    columns = [column for column in COLUMNS if any(row.get(column.key) is not None for row in rows)]
    # without lines between the columns, names like `sae=relu,sparsity=4e-3` fit into 80 characters
    look = {"box": box.SIMPLE_HEAD, "padding": (0, 0, 0, 1), "pad_edge": False}
    table = Table(caption=caption(rows, columns), caption_justify="left", caption_style="dim", **look)
    table.add_column("SAE", overflow="fold")
    for column in columns:
        table.add_column(column.label, justify="right", no_wrap=True)
    for row in rows:
        name = Text(str(row["member"]))  # Text: a name may hold brackets, which rich would take for markup
        if failed(row):
            name.append(" ✗ diverged", style="bold red")
        table.add_row(name, *(column.text(row) for column in columns), style="dim" if failed(row) else None)
    return table


def caption(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> Text:
    """What the columns mean, a line each."""
    counts = sorted({int(row["n_tokens"]) for row in rows if row.get("n_tokens")})
    over = f"held-out tokens: {counts[0]:,}, from images not trained on" if len(counts) == 1 else "held-out tokens"
    lines = [f"{column.label}: {column.meaning.split('. ')[0].rstrip('.')}" for column in columns]
    return Text("\n".join([over, *lines]))
