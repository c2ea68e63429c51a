"""Tables of results on disk, parquet and csv; and the lines that say where a command wrote its results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from saev.files import replacing
from saev.progress import print_line, terminal


def write_table(directory: Path, name: str, rows: pl.DataFrame | Sequence[Mapping[str, Any]]) -> Path:
    """Write a table as parquet, and as csv without the columns that hold lists; the parquet file's path.

    Each file appears whole (temporary name, then rename), parquet last: its presence says that the table is finished.
    """
    table = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(list(rows), infer_schema_length=None)
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / f"{name}.csv") as file:
        table.select(pl.exclude(pl.List)).write_csv(file)
    with replacing(directory / f"{name}.parquet") as file:
        table.write_parquet(file)
    return directory / f"{name}.parquet"


def print_files(files: Mapping[str, Path] | Sequence[Path], next_step: str = "") -> None:
    """A line `label: path` for each file, the labels aligned; without labels, the names of the files. Then the command to continue with.

    Paths below the current folder are relative, so that they can be clicked and typed.
    """
    labelled = [*files.items()] if isinstance(files, Mapping) else [(path.stem, path) for path in files]
    width = max(13, *(len(label) + 1 for label, _ in labelled), 0)
    for label, path in labelled:
        print_line(terminal(), f"{label + ':':<{width}} {relative(path)}")
    if next_step:
        print_line(terminal(), f"{'next:':<{width}} {next_step}")


def relative(path: Path) -> Path:
    """The path from the current folder if it is below it, else the path itself."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
