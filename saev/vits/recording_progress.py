"""Messages and the progress bar of a recording."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from saev.progress import print_line
from saev.vits.image_loader import LoadedImage


@dataclass
class Remarks:
    """What a user should know about the images of a recording."""

    skipped: list[str] = field(default_factory=list)  # errors
    one_colour: list[str] = field(default_factory=list)
    levels: Counter[str] = field(default_factory=Counter)  # greys of other than 8 bits by how they are read

    def add(self, image: LoadedImage) -> None:
        """Count an image."""
        self.skipped += [image.error] if image.error else []
        self.one_colour += [image.row["path"]] if image.one_colour else []
        self.levels.update([image.levels] if image.levels else [])

    def print(self, console: Console, shown: int = 10) -> None:
        """Print what there is to say, at most `shown` images of a kind."""
        for levels, n in self.levels.items():
            print_line(console, f"{n} grey image{'s' * (n > 1)} {levels}")
        if len(self.levels) > 1:
            print_line(console, "Images of one kind should be read alike: store them with 8 bits if they are not.")
        for images, what in (
            (self.one_colour, "Recorded {} images of one colour; check that they are meant to be:"),
            (self.skipped, "Skipped {} unreadable images (column `error` of examples.parquet lists them):"),
        ):
            if images:
                more = [f"and {len(images) - shown} more"] if len(images) > shown else []
                print_line(console, "\n  ".join([what.format(len(images)), *images[:shown], *more]))


class ImageBar:
    """A bar with images done, images/s and the remaining time; one line at the end without a terminal."""

    def __init__(self, console: Console, what: str, total: int, shown: bool):
        columns: list[Any] = [
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
        ]
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
