"""The tables of the explorer's views."""

from collections.abc import Callable
from typing import Any

import marimo as mo
import polars as pl


def table(rows: pl.DataFrame, on_change: Callable[[Any], None], digits: int = 3, **options: Any) -> mo.ui.table:
    """A table to sort, search and export, of which one row can be chosen; `on_change` gets it, or no row. Floats have so many digits."""
    formats: Any = {name: f"{{:.{digits}g}}" for name, kind in rows.schema.items() if kind.is_float()}
    return mo.ui.table(
        rows, selection="single", on_change=on_change, format_mapping=formats, show_column_summaries=False, show_data_types=False,
        **options,
    )  # fmt: skip
