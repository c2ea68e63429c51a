"""The results of `saev probe` as a table in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from saev.visuals.columns import Column, percent


def three(value: float) -> str:
    """Three decimals: these numbers lie between -1 and 1."""
    return f"{value:.3f}"


PROBE = (
    Column("r", "R", three, "1 - cross-entropy of the best latents / that of the prevalence, summed over classes"),
    Column("map", "mAP", three, "mean over classes of the best latent's average precision; 95 % interval over images"),
    Column("f1", "F1", three, "at the threshold that is best in training"),
    Column("precision16", "P@16", three, "of the 16 tokens with the largest codes, those of the class"),
    Column("coverage_0.3", "cov %", percent, "classes with an average precision of at least 0.3"),
)


def probe_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per dictionary and null, in the given order. The caption says what the columns mean."""
    columns = [column for column in PROBE if any(row.get(column.key) is not None for row in rows)]
    intervals = any(row.get("map_low") is not None for row in rows)
    lines = [f"{column.label}: {column.meaning}" for column in columns]
    table = Table(
        caption=Text("\n".join(lines)), caption_justify="left", caption_style="dim", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("dictionary", overflow="fold", min_width=12)
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
                cells.append("" if row.get("map_low") is None else f"{row['map_low']:.3f}–{row['map_high']:.3f}")
        table.add_row(name, *cells)
    return table
