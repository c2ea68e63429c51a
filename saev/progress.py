"""Text on the terminal, and the progress bar of all long loops, on stderr: a bar on a terminal, a line at the end in a log file."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def terminal(stderr: bool = False, quiet: bool = False) -> Console:
    """A console that prints text as it is: rich would take brackets in paths and names for markup."""
    # rich's bars in notebooks need ipywidgets
    return Console(stderr=stderr, quiet=quiet, markup=False, highlight=False, force_jupyter=False if stderr else None)


def print_line(console: Console, text: str) -> None:
    """Print text without breaking its lines, so that paths can be copied."""
    console.print(text, soft_wrap=True)


@contextlib.contextmanager
def bar(what: str, total: int, completed: int = 0, visible: bool = True) -> Iterator[Callable[[int], None]]:
    """Show how much of `total` is done and the time left; yields a function that advances the bar by n."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    shown = visible and total > 0
    with Progress(*columns, TimeRemainingColumn(), console=terminal(stderr=True), disable=not shown) as progress:
        task = progress.add_task(what, total=total, completed=completed)
        yield lambda n: progress.advance(task, n)
