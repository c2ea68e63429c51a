"""The table of measured values and their goals that a benchmark ends with."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

Row = tuple[str, str, str, bool]  # what, measured, goal, reached


def print_goals(rows: Sequence[Row], check: bool, title: str | None = None, measured: str = "measured") -> None:
    """Print the table; with `check` exit with 1 where a goal is missed."""
    table = Table("what", measured, "goal", "reached", title=title)
    for *texts, reached in rows:
        table.add_row(*texts, "yes" if reached else "no")
    Console().print(table)
    if check and not all(reached for *_, reached in rows):
        sys.exit(1)
