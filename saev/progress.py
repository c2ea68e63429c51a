"""The progress bar of all long loops, on stderr: a bar on a terminal, a line at the end in a log file."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def bar(what: str, total: int, completed: int = 0, visible: bool = True) -> Iterator[Callable[[int], None]]:
    """Show how much of `total` is done and the time left; yields a function that advances the bar by n."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    shown = visible and total > 0
    console = Console(stderr=True, force_jupyter=False)  # rich's bars in notebooks need ipywidgets
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not shown) as progress:
        task = progress.add_task(what, total=total, completed=completed)
        yield lambda n: progress.advance(task, n)
