"""Messages and the progress bar of a recording."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn


def print_line(console: Console, text: str) -> None:
    """Print plain text: rich would take brackets in paths and errors for markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_skipped(console: Console, skipped: Sequence[str], shown: int = 10) -> None:
    """Print the errors of images that could not be read, at most `shown`."""
    if skipped:
        print_line(
            console, f"Skipped {len(skipped)} unreadable images (column `error` of examples.parquet lists them):"
        )
        for error in [*skipped[:shown], *([f"and {len(skipped) - shown} more"] if len(skipped) > shown else [])]:
            print_line(console, f"  {error}")


class ImageBar:
    """A bar with images done, images/s and the remaining time; one line at the end without a terminal."""

    def __init__(self, console: Console, what: str, total: int, shown: bool):
        columns: list[Any] = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        columns += [TextColumn("{task.fields[rate]}"), TimeRemainingColumn()]
        self.bar = Progress(*columns, console=console, disable=not shown)
        self.task = self.bar.add_task(what, total=total, rate="")

    def advance(self, n: int) -> None:
        """Advance the bar by n images."""
        self.bar.advance(self.task, n)
        task = self.bar.tasks[0]
        self.bar.update(self.task, rate=f"{task.completed / max(task.elapsed or 0, 1e-3):.1f} images/s")

    def __enter__(self) -> "ImageBar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
