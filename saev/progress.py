"""How far something long is: a bar on a terminal, a line at its end in a log file."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def bar(what: str, total: int, completed: int = 0) -> Iterator[Callable[[int], None]]:
    """Shows how much of `total` is done and the time that is left; what it gives is told how much more is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not total) as progress:
        task = progress.add_task(what, total=total, completed=completed)
        yield lambda n: progress.advance(task, n)
