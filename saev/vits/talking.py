"""What a recording says while it runs."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn


def say(console: Console, text: str) -> None:
    """A line of plain text: paths and errors are full of brackets that rich would take for markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def report(console: Console, skipped: Sequence[str], shown: int = 10) -> None:
    """List the images that could not be read."""
    if skipped:
        say(console, f"Skipped {len(skipped)} unreadable images (column `error` of examples.parquet lists them):")
        for error in [*skipped[:shown], *([f"and {len(skipped) - shown} more"] if len(skipped) > shown else [])]:
            say(console, f"  {error}")


class ImageBar:
    """Images done, images/s and the time that is left; a single line at the end where there is no terminal."""

    def __init__(self, console: Console, what: str, total: int, shown: bool):
        columns: list[Any] = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        columns += [TextColumn("{task.fields[rate]}"), TimeRemainingColumn()]
        self.bar = Progress(*columns, console=console, disable=not shown)
        self.task = self.bar.add_task(what, total=total, rate="")

    def advance(self, n: int) -> None:
        """So many more images are done."""
        self.bar.advance(self.task, n)
        seen = self.bar.tasks[0]
        self.bar.update(self.task, rate=f"{seen.completed / max(seen.elapsed or 0, 1e-3):.1f} images/s")

    def __enter__(self) -> "ImageBar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
