"""The taxon of each image at each rank: columns of examples.parquet, or of a csv that is joined to them."""

from collections.abc import Sequence

import polars as pl

from saev.images.tables import RESERVED
from saev.probing.image_tables import BINARY
from saev.probing.labels import closest
from saev.settings import shown

Taxa = dict[str, list[str | None]]  # rank -> value of each image of the recording


def ranks_of(table: pl.DataFrame, rows: Sequence[str]) -> Taxa:
    """The value of each row of a table at each rank, None where it has none; `rows` are columns of the table.

    ValueError for a column that is not there (the closest names), or without values.
    """
    names, taxa = [name for name in table.columns if name not in RESERVED], {}
    for name in rows:
        if name not in names:
            remedy = closest(name, names) if names else ": give a table of taxa, taxonomy=tree.csv."
            raise ValueError(f"rows={shown(rows)}: there is no column {name!r}{remedy}")
        texts = ["" if value is None else str(value) for value in table[name].to_list()]
        taxa[name] = [None if BINARY.get(text.lower()) == -1 else text for text in texts]
        if not any(taxa[name]):
            raise ValueError(f"rows={shown(rows)}: column {name!r} is empty: leave it out.")
    return taxa
