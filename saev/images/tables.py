"""Tables of labels beside images: reading them, and joining them to the images by path or stem."""

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path, PurePosixPath

# The columns of examples.parquet that are not labels
RESERVED = ("index", "key", "path", "width", "height", "grid_h", "grid_w", "n_tokens", "error")
Row = Mapping[str, str | int]


def read_table(file: Path, key: str = "", column: str = "label") -> dict[str, dict[str, str]]:
    """The rows of a table by their key, as text.

    .csv (, or ;) and .tsv have a header; `key` names the key column (default: the first). Other files have a line `key value`
    per image, whose value goes into `column`. ValueError naming file and line where a table is malformed.
    """
    lines = _records(file, key) if file.suffix.lower() in (".csv", ".tsv") else _pairs(file, column)
    rows: dict[str, dict[str, str]] = {}
    for number, name, row in lines:
        if name in rows:
            raise ValueError(f"{file}, line {number}: second row of {name!r}; keep one of them.")
        rows[name] = row
    return rows


def first_column(file: Path) -> str:
    """The name of a .csv or .tsv file's first column; "" for an empty file."""
    header = next(records(file), (0, [""]))[1]
    return header[0].strip()


def _records(file: Path, key: str) -> Iterable[tuple[int, str, dict[str, str]]]:
    lines = records(file)
    header = [name.strip() for name in next(lines, (0, []))[1]]
    key = key or (header or [""])[0]
    if key not in header or len({*header}) < len(header):
        why = f"has no column {key!r}" if key not in header else "names a column twice"
        raise ValueError(f"{file} {why}: its first line is {', '.join(header) or 'empty'}.")
    for line, values in lines:
        if len(values) != len(header):
            raise ValueError(f"{file}, line {line} has {len(values)} fields, the header {len(header)}.")
        row = {name: sys.intern(value.strip()) for name, value in zip(header, values, strict=True)}
        yield line, row.pop(key), row


def records(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(its last line, fields) of each record of a .csv (, or ;) or .tsv file that is not empty, the header first.

    ValueError naming the line of a quote that is not closed.
    """
    text, delimiter = read_text(file), "\t" if file.suffix.lower() == ".tsv" else ","
    header = text.partition("\n")[0]
    if delimiter == "," and header.count(";") > header.count(","):  # spreadsheets write it where the comma is decimal
        delimiter = ";"
    reader, start = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True), 1
    try:
        for values in reader:
            if values:
                yield reader.line_num, values
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{file}, line {start}: a field's quotes do not match ({error}): close the quote, or double it if it belongs to the text."
        ) from error


def read_text(file: Path) -> str:
    """The text of a UTF-8 file; ValueError naming the line that is not UTF-8, and the remedy."""
    data = file.read_bytes()
    remedy = "save it as UTF-8 (in a spreadsheet: CSV UTF-8), or: iconv -f {} -t utf-8 " + f"{file} > new{file.suffix}"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:200]:
        raise ValueError(f"{file}, line 1: the text is UTF-16: {remedy.format('utf-16')}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{file}, line {line}: the byte 0x{data[error.start]:02x} is not UTF-8: {remedy.format('latin1')}"
        ) from error


def _pairs(file: Path, column: str) -> Iterable[tuple[int, str, dict[str, str]]]:
    for number, line in enumerate(read_text(file).splitlines(), 1):
        name, _, value = line.strip().partition("\t" if "\t" in line else " ")
        if not value.strip():
            if name:
                raise ValueError(f"{file}, line {number}: {line!r} is not an image's name, a space and its {column}.")
            continue
        yield number, name, {column: sys.intern(value.strip())}


def match(keys: Iterable[str], paths: Sequence[str], table: Path) -> dict[str, str]:
    """The path of each key, {key: path}; keys without an image are left out.

    A key is a path, an ending of it, or its file name, with or without the extension. ValueError for a key of several
    images, or two keys of one image.
    """
    by_alias: dict[str, str | None] = {}  # None: of several images
    for path in paths:
        for alias in aliases(path):
            by_alias[alias] = None if alias in by_alias else path
    by_alias |= {path: path for path in paths}  # a whole path is never ambiguous
    matches: dict[str, str] = {}
    keys_of: dict[str, str] = {}
    for key in keys:
        alias = key.replace("\\", "/").removeprefix("./")
        if alias not in by_alias:
            continue
        path = by_alias[alias]
        if path is None:
            raise ValueError(f"{table}: {key!r} means several images; write their paths, such as folder/{key}.")
        if path in keys_of:
            raise ValueError(f"{table}: {keys_of[path]!r} and {key!r} both mean {path}; keep one row for each image.")
        matches[key], keys_of[path] = path, key
    return matches


def aliases(path: str) -> set[str]:
    """The keys by which a table may name an image.

    >>> sorted(aliases("images/val/a.jpg"))
    ['a', 'a.jpg', 'images/val/a', 'images/val/a.jpg', 'val/a', 'val/a.jpg']
    """
    parts = PurePosixPath(path).parts
    ends = ["/".join(parts[at:]) for at in range(len(parts))]
    return {*ends, *(end.rpartition(".")[0] or end for end in ends)}


def label_columns(rows: Mapping[str, Mapping[str, str]]) -> dict[str, Row]:
    """The rows as label columns: integers where all values of a column are, reserved column names prefixed.

    >>> label_columns({"a": {"sex": "f", "year": "1999", "tag": "007"}, "b": {"sex": "", "year": "5", "tag": "8"}})["a"]
    {'sex': 'f', 'year': 1999, 'tag': '007'}
    """
    columns = next(iter(rows.values()), {})
    integers = {name for name in columns if all(_is_int(row[name]) for row in rows.values())}
    return {
        key: {label_name(name): int(text) if name in integers else text for name, text in row.items()}
        for key, row in rows.items()
    }


def label_name(column: str) -> str:
    """The column's name in examples.parquet: reserved names are prefixed.

    >>> label_name("species"), label_name("width")
    ('species', 'label_width')
    """
    return f"label_{column}" if column in RESERVED else column


def _is_int(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and str(int(text)) == text and abs(int(text)) < 1 << 63


def shortened(names: Iterable[str], shown: int = 3) -> str:
    """The first names and their number, for a message.

    >>> shortened(["a", "b", "c", "d"])
    'a, b, c, ... (4)'
    """
    names = [*names]
    return ", ".join(names[:shown]) + (f", ... ({len(names)})" if len(names) > shown else "")
