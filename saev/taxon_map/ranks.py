"""The taxon of each image at each rank: columns of examples.parquet, or of a csv that is joined to them."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool

from saev.contrasts.conditions import holds, parse
from saev.images.tables import first_column, match, read_table, shortened
from saev.probing.image_tables import BINARY, columns_of, report_matches
from saev.probing.labels import closest
from saev.settings import shown
from saev.shards import ActivationStore

log = logging.getLogger(__name__)
Taxa = dict[str, list[str | None]]  # rank -> value of each image of the recording


def ranks_of(store: ActivationStore, rows: Sequence[str], taxonomy: str | Path | None = None) -> Taxa:
    """The value of each image of the recording at each rank, None where it has none.

    Args:
        rows: columns of the recording's examples.parquet, or of the table `taxonomy`.
        taxonomy: a csv or tsv. Its first column names either the values of a column of examples.parquet that has the same name
            (class,order,family), or the images (path, ending of it, file name or stem).

    ValueError for a column that is not there (the closest names), or without values.
    """
    joined = joined_columns(store, taxonomy)
    names = [*joined, *(name for name in columns_of(store) if name not in joined)]
    taxa: Taxa = {}
    for name in rows:
        if name not in names:
            where = store.name if taxonomy is None else f"{store.name} and {taxonomy}"
            raise ValueError(
                f"rows={shown(rows)}: {where} has no column {name!r}"
                + (closest(name, names) if names else ": give a table of taxa, taxonomy=tree.csv.")
            )
        values = joined[name] if name in joined else store.examples[name].to_list()
        taxa[name] = [None if BINARY.get(str(value or "").lower()) == -1 else str(value) for value in values]
        if not any(taxa[name]):
            raise ValueError(f"rows={shown(rows)}: column {name!r} of {store.name} is empty: leave it out.")
    return taxa


def fulfils(
    store: ActivationStore, where: str | None, taxonomy: str | Path | None = None
) -> Bool[np.ndarray, " images"]:
    """Whether each image of the recording fulfils conditions on its columns and those of `taxonomy`, such as `view=dorsal`."""
    if where is None:
        return np.ones(len(store.examples), bool)
    columns = [pl.Series(name, values, pl.String) for name, values in joined_columns(store, taxonomy).items()]
    return holds(parse(where, "where"), store.examples.with_columns(columns), "where")


def joined_columns(store: ActivationStore, taxonomy: str | Path | None) -> Taxa:
    """The columns of a table for each image of the recording, None for images without a row; {} without a table."""
    if taxonomy is None:
        return {}
    file = Path(taxonomy)
    if not file.is_file():
        raise ValueError(f"taxonomy={file} is not there: give a csv whose first column is a class or an image.")
    rows = read_table(file)
    columns = list(next(iter(rows.values()), {}))
    if not columns:
        raise ValueError(f"taxonomy={file} has no ranks: give a column per rank beside the first.")
    key = first_column(file)
    if key in columns_of(store):
        values = [str(value) for value in store.examples[key].to_list()]
        without = sorted({*values} - {*rows})
        if len(without) == len({*values}):
            raise ValueError(
                f"taxonomy={file}: no value of its column {key!r} is one of {store.name}, such as {shortened(without)}."
            )
        if without:
            log.warning("taxonomy=%s: no row for %s=%s", file, key, shortened(without))
        of_image = [rows.get(value) for value in values]
    else:
        paths = store.examples["path"].to_list()
        path_of = match(rows, paths, file)
        report_matches(file, store, rows, path_of, 0, "taxonomy")
        by_path = {path: rows[name] for name, path in path_of.items()}
        of_image = [by_path.get(path) for path in paths]
    return {name: [None if row is None else row[name] for row in of_image] for name in columns}
