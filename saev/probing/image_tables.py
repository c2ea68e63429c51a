"""Image-level labels, broadcast to all tokens: a column of examples.parquet, or a csv or tsv table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from saev.images.tables import RESERVED, match, read_table
from saev.probing.labels import ImageLabels
from saev.shards import ActivationStore

YES, NO, UNKNOWN = ("1", "true", "yes"), ("0", "false", "no"), ("", "na", "nan", "?")


def columns_of(store: ActivationStore) -> list[str]:
    """The columns of examples.parquet that the image set added."""
    return sorted(set(store.examples.columns) - set(RESERVED))


def labels_from_column(
    store: ActivationStore, column: str, names: Sequence[str] | None = None
) -> tuple[ImageLabels, tuple[str, ...]]:
    """(one class per image, class names): the values of a column of examples.parquet.

    With `names` (those of another recording) other values are no class. ValueError where there is no such column.
    """
    table = store.examples
    if column not in table.columns:
        raise ValueError(
            f"labels={column}: {store.name} has no such column; choose patches, one of {columns_of(store)}, or a csv file."
        )
    values = [None if value is None else str(value) for value in table[column].to_list()]
    classes = tuple(sorted({value for value in values if value not in (None, "")})) if names is None else tuple(names)
    number = {name: i for i, name in enumerate(classes)}
    return ImageLabels(np.array([number.get(value or "", -1) for value in values]), len(classes)), classes


def labels_from_table(
    store: ActivationStore, file: str | Path, names: Sequence[str] | None = None
) -> tuple[ImageLabels, tuple[str, ...]]:
    """(any number of classes per image, class names) from a csv or tsv with a row per image (first column: its path or file name)
    and a column per class: 1 or 0, true or false.

    Images without a row, or with an empty field, are left out. ValueError for other values, and where no row is an image.
    """
    file = Path(file)
    if not file.is_file():
        raise ValueError(
            f"labels={file} is not there: give a csv or tsv file, a column of examples.parquet, or patches."
        )
    rows = read_table(file)
    columns = tuple(next(iter(rows.values()), {})) if names is None else tuple(names)
    if not columns:
        raise ValueError(f"labels={file}: give a column per class beside the images' names.")
    paths = store.examples["path"].to_list()
    index = {path: i for i, path in enumerate(paths)}
    table, known = np.zeros((len(paths), len(columns)), bool), np.zeros(len(paths), bool)
    for key, path in match(rows, paths, file).items():
        fields = [rows[key].get(name, "").lower() for name in columns]
        for name, field in zip(columns, fields, strict=True):
            if field not in (*YES, *NO, *UNKNOWN):
                raise ValueError(f"labels={file}: {key!r} has {name}={field!r}; give 1 or 0 (empty: unknown).")
        table[index[path]] = [field in YES for field in fields]
        known[index[path]] = not any(field in UNKNOWN for field in fields)
    if not known.any():
        raise ValueError(f"labels={file}: none of its rows is an image of {store.name} (e.g. {paths[0]}).")
    return ImageLabels(table, counted=known), columns
