"""Tables of results on disk, parquet and csv; and the lines that say where a command wrote its results."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from saev.files import write_atomically
from saev.progress import print_line, terminal
from saev.shards.verify import differing

SUMS = "sha256.json"


def write_table(directory: Path, name: str, rows: pl.DataFrame | Sequence[Mapping[str, Any]], csv: bool = True) -> Path:
    """Write a table as parquet, and with `csv` as csv without the columns that hold lists; the parquet file's path.

    Each file appears whole (temporary name, then rename), parquet last: its presence says that the table is finished. Their
    sha256 go into SUMS.
    """
    table = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(list(rows), infer_schema_length=None)
    directory.mkdir(parents=True, exist_ok=True)
    text, columns = io.BytesIO(), io.BytesIO()
    table.write_parquet(columns)
    files = {f"{name}.parquet": columns.getvalue()}
    if csv:
        table.select(pl.exclude(pl.List)).write_csv(text)
        files = {f"{name}.csv": text.getvalue(), **files}
    sums = sums_of(directory) | {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    write_atomically(directory / SUMS, json.dumps(sums, indent=1).encode())
    for file, data in files.items():
        write_atomically(directory / file, data)
    return directory / f"{name}.parquet"


def sums_of(directory: Path) -> dict[str, str]:
    """sha256 by file of the tables that were written into a directory."""
    return json.loads((directory / SUMS).read_text()) if (directory / SUMS).is_file() else {}


def changed_tables(directory: Path) -> list[str]:
    """The tables of a directory that are missing or have changed since they were written, one line each."""
    return differing(directory, sums_of(directory))


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
