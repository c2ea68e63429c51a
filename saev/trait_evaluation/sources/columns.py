"""Traits from columns of a recording's examples.parquet."""

import numpy as np
from jaxtyping import Int8, Int64

from saev.images.tables import shortened
from saev.probing.image_tables import BINARY, columns_of
from saev.probing.labels import closest
from saev.settings import shown
from saev.shards import ActivationStore
from saev.trait_evaluation.sources.settings import Columns
from saev.trait_evaluation.table import TraitTable


def table(settings: Columns, store: ActivationStore, examples: Int64[np.ndarray, " images"]) -> TraitTable:
    """The traits of all columns, in their order."""
    parts = [of_column(settings, store, column, examples) for column in dict.fromkeys(settings.columns)]
    names = tuple(name for part, _ in parts for name in part)
    return TraitTable(names, np.concatenate([values for _, values in parts], 1))


def of_column(
    settings: Columns, store: ActivationStore, column: str, examples: Int64[np.ndarray, " images"]
) -> tuple[list[str], Int8[np.ndarray, "images traits"]]:
    """(names, values) of the traits of one column; ValueError where it is missing, empty, or has too many values."""
    where = f"traits.columns={shown(settings.columns)}"
    if column not in (there := columns_of(store)):
        remedy = closest(column, there) if there else ": its image set has no labels, give a table: traits=table."
        raise ValueError(f"{where}: {store.name} has no column {column!r}{remedy}")
    texts = ["" if value is None else str(value) for value in store.examples[column]]
    values = [str(value) for value in store.examples[column].drop_nulls().unique().sort()]
    values = [value for value in values if BINARY.get(value.lower()) != -1]
    if not values:
        raise ValueError(f"{where}: column {column!r} of {store.name} is empty: leave it out.")
    if all(value.lower() in BINARY for value in values):
        return [column], np.array([[BINARY[texts[i].lower()]] for i in examples], np.int8).reshape(-1, 1)
    if len(values) > settings.max_values:
        raise ValueError(
            f"{where}: column {column!r} has {len(values)} values ({shortened(values)}), each "
            f"would be a trait: leave it out, or set traits.max_values={len(values)}."
        )
    number = {value: i for i, value in enumerate(values)}
    index = np.array([number.get(texts[i], -1) for i in examples], np.int64)
    table = (index[:, None] == np.arange(len(values))).astype(np.int8)
    table[index < 0] = -1
    return [f"{column}={value}" for value in values], table
