"""Names of latents: annotations.csv in a dictionary's folder, beside config.json.

A row is what one author says of one latent: run, latent, name, confidence, note, author, date. Rows are added, never changed:
another name is a further row, and the newest counts. Rows are corrected and deleted by hand, in a spreadsheet.
"""

import datetime
import getpass
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from saev.checkpoint import read_config
from saev.files import UNPRINTABLE, write_atomically
from saev.images.tables import records
from saev.locks import exclusive

log = logging.getLogger(__name__)

FILE, LOCK = "annotations.csv", ".annotations.lock"
SCHEMA = {
    "run": pl.String, "latent": pl.Int64, "name": pl.String, "confidence": pl.Float64, "note": pl.String, "author": pl.String,
    "date": pl.Date,
}  # fmt: skip
KEY = ("run", "latent", "author", "name")


def read(path: str | os.PathLike) -> pl.DataFrame:
    """The annotations of a dictionary's folder, or of any csv file of that form; empty where there is no file.

    Columns as in SCHEMA, then further ones as text. Fields are separated by commas or semicolons. ValueError naming file and line
    for a missing column, a latent that the dictionary does not have, a confidence outside 0 to 1, a date not as 2026-11-28.
    """
    path, n_latents = Path(path), None
    if path.suffix.lower() != ".csv":
        path, n_latents = path / FILE, int(read_config(path)["n_latents"])
    if not path.is_file():
        return pl.DataFrame(schema=SCHEMA)
    lines = records(path)
    header = [name.strip() for name in next(lines, (0, []))[1]]
    rows = []
    for line, values in lines:
        if len(values) != len(header):
            raise ValueError(f"{path}, line {line} has {len(values)} fields, the header {len(header)}.")
        rows.append((f"{path}, line {line}", dict(zip(header, map(str.strip, values), strict=True))))
    return _checked(header, rows, str(path), n_latents)


def names(path: str | os.PathLike) -> dict[int, str]:
    """Latent -> name in a dictionary's folder; of several names the newest, of one day the last. ValueError as of `read`."""
    named = read(path).filter(pl.col("name") != "").sort("date", maintain_order=True, nulls_last=False)
    return dict(named.select("latent", "name").iter_rows())


def annotate(
    dictionary: str | os.PathLike,
    latent: int,
    name: str,
    *,
    confidence: float | None = None,
    note: str = "",
    author: str | None = None,
    date: str | None = None,
) -> Path:
    """Name a latent of a saved dictionary: add a row to its annotations.csv; the file.

    Args:
        dictionary: the folder with config.json.
        confidence: 0 to 1.
        author, date: None: the user's login, today.

    A name that the author has given before is left as it is, with a warning. ValueError as of `merge`.
    """
    folder = _folder(dictionary)
    if not clean(name):
        raise ValueError(f"name={name!r}: must be a text.")
    author = user() if author is None else author
    row = {
        "run": folder.name, "latent": latent, "name": clean(name), "confidence": confidence, "note": clean(note),
        "author": clean(author), "date": date or datetime.date.today().isoformat(),
    }  # fmt: skip
    if not merge(folder, [row]):
        log.warning(
            "%s has already named latent %d %r: the row in %s is left as it is, and the newest name is %r",
            author, latent, row["name"], folder / FILE, names(folder).get(latent),
        )  # fmt: skip
    return folder / FILE


def merge(path: str | os.PathLike, rows: pl.DataFrame | Iterable[Mapping[str, Any]] | str | os.PathLike) -> int:
    """Add rows to the annotations of a dictionary's folder; the number of rows added.

    `rows`: a table, mappings, or another annotations file. One whose run, latent, author and name are there already is left out; no
    row is changed or removed. ValueError for rows of another run, malformed rows, and a folder that cannot be written.
    """
    folder = _folder(path)
    n_latents, file = int(read_config(folder)["n_latents"]), folder / FILE
    if isinstance(rows, str | os.PathLike):
        rows = read(rows)
    given = rows.to_dicts() if isinstance(rows, pl.DataFrame) else [*rows]
    header = [*dict.fromkeys(key for row in given for key in row)] or [*SCHEMA]
    texts = [{key: "" if row.get(key) is None else str(row[key]) for key in header} for row in given]
    added = _checked(header, [(f"row {i}", row) for i, row in enumerate(texts, 1)], "the rows", n_latents)
    if others := sorted({*added["run"]} - {folder.name}):
        raise ValueError(
            f"{', '.join(others)}: the rows are of another run than {folder.name}: merge them into that, or change their run."
        )
    try:
        with exclusive(folder / LOCK, mode=0o666):  # also for others who may write in a shared folder
            before = read(folder)
            new = added.join(before, on=KEY, how="anti", maintain_order="left").unique(
                KEY, keep="first", maintain_order=True
            )
            if len(new):
                write_atomically(file, pl.concat([before, new], how="diagonal").write_csv().encode())
    except OSError as error:
        raise ValueError(
            f"{file} cannot be written ({error.strerror}): annotate a copy of the folder, or ask for permission to write there."
        ) from error
    return len(new)


def titled(latent: int, named: Mapping[int, str]) -> str:
    """A latent's number, and its name where it has one.

    >>> titled(965, {965: "eye spot"}), titled(7, {965: "eye spot"})
    ('965 (eye spot)', '7')
    """
    return f"{latent} ({named[latent]})" if named.get(latent) else str(latent)


def with_names(
    table: pl.DataFrame, named: Mapping[int, str], column: str = "latent", name: str = "name"
) -> pl.DataFrame:
    """The table with a column `name` after that of the latents; null where a latent has none."""
    values = pl.col(column).cast(pl.Int64).replace_strict(named, default=None, return_dtype=pl.String)
    columns = pl.lit(None, pl.String) if not named else values
    position = table.columns.index(column) + 1
    return table.select(*table.columns[:position], columns.alias(name), *table.columns[position:])


def clean(text: str) -> str:
    """One line without control characters, which would reach terminals and pages.

    >>> clean(" eye\\n spot ")
    'eye spot'
    """
    return " ".join(UNPRINTABLE.sub(" ", text).split())


def user() -> str:
    """The user's login; ValueError where the system does not know it, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise ValueError("author: the system does not know your login: give author=.") from error


def _folder(path: str | os.PathLike) -> Path:
    return Path(os.path.abspath(path))  # called by its name, also where it is given as .


def _checked(
    header: Iterable[str], rows: Iterable[tuple[str, Mapping[str, str]]], what: str, n_latents: int | None
) -> pl.DataFrame:
    """(where it is, texts by column) of each row as a table."""
    header = [*header]
    if missing := [name for name in SCHEMA if name not in header]:
        raise ValueError(f"{what}: without {', '.join(missing)}: the columns are {', '.join(SCHEMA)}.")
    if len({*header}) < len(header):
        raise ValueError(f"{what}: the header names a column twice.")
    schema = {**SCHEMA, **dict.fromkeys((name for name in header if name not in SCHEMA), pl.String)}
    return pl.DataFrame([_row(where, row, n_latents) for where, row in rows], schema=schema)


def _row(where: str, row: Mapping[str, str], n_latents: int | None) -> dict[str, Any]:
    latent, confidence, date = row["latent"], row["confidence"], row["date"]
    if not (latent.isascii() and latent.isdigit()) or (n_latents is not None and int(latent) >= n_latents):
        known = "" if n_latents is None else f" of {n_latents}, counted from 0"
        raise ValueError(f"{where}: latent={latent!r}: must be the number of a latent{known}.")
    try:
        value = float(confidence.replace(",", ".")) if confidence else None
        if value is not None and not 0 <= value <= 1:
            raise ValueError
    except ValueError:
        raise ValueError(f"{where}: confidence={confidence!r}: must be between 0 and 1, or empty.") from None
    try:
        day = datetime.date.fromisoformat(date) if date else None
    except ValueError:
        raise ValueError(f"{where}: date={date!r}: must be written as 2026-11-28, or empty.") from None
    return {**row, "name": clean(row["name"]), "latent": int(latent), "confidence": value, "date": day}
