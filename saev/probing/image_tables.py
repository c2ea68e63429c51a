"""Image-level labels, broadcast to all tokens: a column of examples.parquet, or a csv or tsv table."""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int8

from saev.images.tables import RESERVED, first_column, label_columns, match, read_table, shortened
from saev.probing.labels import ImageLabels, closest
from saev.shards import ActivationStore

log = logging.getLogger(__name__)
# Fields of a table, in lower case: 1 yes, 0 no, -1 not known. Spreadsheets and pandas write 1.0 in columns with empty fields.
BINARY = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), 1),
    **dict.fromkeys(("0", "0.0", "false", "no"), 0),
    **dict.fromkeys(("", "na", "nan", "?"), -1),
}


def columns_of(store: ActivationStore) -> list[str]:
    """The columns of examples.parquet that the image set added."""
    return sorted(set(store.examples.columns) - set(RESERVED))


def joined(
    store: ActivationStore,
    file: str | os.PathLike,
    option: str,
    key: str = "",
    used: Collection[str] | None = None,
) -> pl.DataFrame:
    """examples.parquet with the columns of a csv or tsv, null where an image has no row.

    The table's column `key` (default: the first) names values of the column of the same name, or else images (path, ending of it,
    file name or stem). ValueError for a table that is not there, has no other column, a column that the recording has, or no row
    for any image; `option` is what the user gave the table for. Of columns that the recording has, those that are not in `used`
    (None: all are) are left out instead.
    """
    file, examples = Path(file), store.examples
    if not file.is_file():
        raise ValueError(
            f"{option}={file} is not there: give a csv whose first column names images or values of a column."
        )
    rows, key = read_table(file, key), key or first_column(file)
    if key in examples.columns and key != "path":
        values = ["" if value is None else str(value) for value in examples[key].to_list()]
        without = sorted({*values} - {*rows} - {""})
        if len(without) == len({*values} - {""}):
            raise ValueError(
                f"{option}={file}: no value of its column {key!r} is one of {store.name}, such as {shortened(without)}."
            )
        if without:
            log.warning("%s=%s: no row for %s=%s", option, file, key, shortened(without))
    else:
        if same := [name for name in columns_of(store) if name.lower() == key.lower()]:
            raise ValueError(
                f"{option}={file}: its first column {key!r} is no column of {store.name}; did you mean {same[0]}?"
            )
        values = examples["path"].to_list()
        path_of = match(rows, values, file)
        report_matches(file, store, rows, path_of, 0, option)
        rows = {path_of[name]: row for name, row in rows.items() if name in path_of}
    added = label_columns({value: rows[value] for value in dict.fromkeys(values) if value in rows})
    names = list(next(iter(added.values())))
    if not names:
        raise ValueError(f"{option}={file} has one column alone: give others beside {key!r}.")
    taken = [name for name in names if name in examples.columns]
    if used is not None:
        names, taken = [name for name in names if name not in taken], [name for name in taken if name in used]
    if taken:
        raise ValueError(f"{option}={file}: {store.name} has a column {taken[0]!r} already: rename the table's.")
    return examples.with_columns(
        pl.Series(name, [added.get(value, {}).get(name) for value in values]) for name in names
    )


def labels_from_column(
    store: ActivationStore, column: str, names: Sequence[str | int] | None = None
) -> tuple[ImageLabels, tuple[str, ...]]:
    """(one class per image, class names): the values of a column of examples.parquet.

    With `names` (chosen ones, or those of another recording) images with other values are of none of these classes. ValueError
    where there is no such column.
    """
    table = store.examples
    if column not in table.columns:
        raise ValueError(
            f"labels={column}: {store.name} has no such column; choose patches, one of {columns_of(store)}, or a csv file."
        )
    values = [None if value is None else str(value) for value in table[column].to_list()]
    every = sorted({value for value in values if value not in (None, "")})
    classes = tuple(every if names is None else map(str, names))
    number = {"": -1, **{name: i for i, name in enumerate(classes)}}
    return ImageLabels(np.array([number.get(value or "", len(classes)) for value in values]), len(classes)), classes


def labels_from_table(
    store: ActivationStore, file: str | Path, names: Sequence[str | int] | None = None, min_labelled: float = 0
) -> tuple[ImageLabels, tuple[str, ...]]:
    """(any number of classes per image, class names) from a csv or tsv with a row per image (first column: its path or file name)
    and a column per class: 1 or 0, true or false.

    Images without a row, or with an empty field, are left out. ValueError for other values, and where fewer than the fraction
    `min_labelled` of the images have a row.
    """
    file = Path(file)
    if not file.is_file():
        raise ValueError(
            f"labels={file} is not there: give a csv or tsv file, a column of examples.parquet, or patches."
        )
    rows = read_table(file)
    every = tuple(next(iter(rows.values()), {}))
    columns = every if names is None else tuple(map(str, names))
    if absent := [name for name in columns if name not in every]:
        raise ValueError(f"labels={file} has no column {absent[0]!r}{closest(absent[0], every)}")
    if not columns:
        raise ValueError(f"labels={file}: give a column per class beside the images' names.")
    paths = store.examples["path"].to_list()
    index = {path: i for i, path in enumerate(paths)}
    table, known = np.zeros((len(paths), len(columns)), bool), np.zeros(len(paths), bool)
    rows_of_images = match(rows, paths, file)
    report_matches(file, store, rows, rows_of_images, min_labelled)
    values = binary_values({key: rows[key] for key in rows_of_images}, columns, f"labels={file}")
    images = [index[path] for path in rows_of_images.values()]
    table[images], known[images] = values == 1, (values >= 0).all(1)
    return ImageLabels(table, counted=known), columns


def binary_values(
    rows: Mapping[str, Mapping[str, str]], columns: Sequence[str], where: str, or_else: str = ""
) -> Int8[np.ndarray, "rows columns"]:
    """1, 0 or -1 (not known) for the fields of some columns; ValueError naming row and column of any other field.

    `where` begins the message; `or_else` ends its remedy, with {} for the column's name.
    """
    values = np.empty((len(rows), len(columns)), np.int8)
    for i, (key, row) in enumerate(rows.items()):
        for j, name in enumerate(columns):
            if (value := BINARY.get(row[name].lower())) is None:
                remedy = f"give 1 or 0 (empty: unknown){or_else.format(name)}"
                raise ValueError(f"{where}: {key!r} has {name}={row[name]!r}; {remedy}.")
            values[i, j] = value
    return values


def report_matches(
    file: Path,
    store: ActivationStore,
    rows: Collection[str],
    matched: Mapping[str, str],
    min_labelled: float,
    key: str = "labels",
    option: str = "min_labelled",
) -> None:
    """Log how many images have a row and how many rows no image. ValueError where too few images have one."""
    paths = store.examples["path"].to_list()
    without, other = sorted(set(paths) - {*matched.values()}), [key for key in rows if key not in matched]
    counts = f"{len(matched)} of the {len(paths)} images of {store.name} have a row"
    counts += f" (not {shortened(without)})" if without else ""
    counts += f"; {len(other)} of {len(rows)} rows are no image of it ({shortened(other)})" if other else ""
    if not matched or len(matched) < min_labelled * len(paths):
        remedy = f"; {option}={len(matched) / len(paths):.2g} takes these alone" if matched else ""
        raise ValueError(f"{key}={file}: {counts}: give paths or file names of the images{remedy}.")
    log.info("%s=%s: %s", key, file, counts)
