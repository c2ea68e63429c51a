"""The results of `saev evaluate` as a table in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from saev.visuals.columns import Column, digits, failed, percent

EVALUATION = (
    Column("nmse", "NMSE", digits, "squared error over the squared distance from the mean of the same tokens"),
    Column("l0", "L0", digits, "active latents per token"),
    Column("dead", "dead %", percent, "latents that fire on none of these tokens"),
    Column("dense_above_0.1", "dense %", percent, "latents that fire on more than a tenth of them"),
    Column("coherence", "cos", lambda value: f"{value:.3f}", "largest |cosine| of two atoms"),
    Column("correlation", "|corr|", lambda value: f"{value:.3f}", "mean |correlation| of two latents' codes"),
    Column(
        "splice_recovered_cls",
        "cls",
        digits,
        "of the final cls token, share kept: 1 - error / error under mean ablation",
    ),
    Column("splice_recovered_patches", "patch", digits, "the same for the final patches"),
    Column("splice_agreement", "class %", percent, "images that the head gives the class it gave before"),
)


def evaluation_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per dictionary, in the given order; columns that no row has are left out. The caption says what they mean."""
    columns = [column for column in EVALUATION if any(column.key in row for row in rows)]
    lines = [f"{column.label}: {column.meaning}" for column in columns]
    caption = Text("\n".join(lines))
    # without lines between the columns it fits into 80 characters
    look = {"box": box.SIMPLE_HEAD, "padding": (0, 0, 0, 1), "pad_edge": False}
    table = Table(caption=caption, caption_justify="left", caption_style="dim", **look)
    table.add_column("dictionary", overflow="fold", min_width=10)
    for column in columns:
        table.add_column(column.label, justify="right", no_wrap=True)
    for row in rows:
        name = Text(str(row["member"]))
        if failed(row):
            name.append(" ✗ diverged", style="bold red")
        table.add_row(name, *(column.text(row) for column in columns))
    return table
