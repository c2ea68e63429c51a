"""Traits from a csv or tsv with a row per image."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from saev.images.tables import match, read_table
from saev.probing.image_tables import binary_values, report_matches
from saev.probing.labels import closest
from saev.settings import shown
from saev.shards import ActivationStore
from saev.trait_evaluation.sources.settings import Table
from saev.trait_evaluation.table import TraitTable


def table(settings: Table, store: ActivationStore, examples: Int64[np.ndarray, " images"]) -> TraitTable:
    """The rows of the images that have one; -1 for the others."""
    file, paths = Path(settings.path or ""), store.examples["path"].to_list()
    rows = read_table(file, settings.key)
    names = trait_columns(f"traits.path={file}", rows, settings.ignore)
    path_of = match(rows, paths, file)
    report_matches(file, store, rows, path_of, settings.min_labelled, "traits.path", "traits.min_labelled")
    row = {path: i for i, path in enumerate(path_of.values())}
    values = binary_values({key: rows[key] for key in path_of}, names, f"traits.path={file}", " or traits.ignore=[{}]")
    unknown = np.full((1, len(names)), -1, np.int8)  # the last row
    return TraitTable(names, np.concatenate([values, unknown])[[row.get(paths[i], -1) for i in examples]])


def trait_columns(where: str, rows: Mapping[str, Mapping[str, str]], ignore: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a table's columns except `ignore`; ValueError for none, and for ignored columns that it does not have."""
    columns = tuple(next(iter(rows.values()), {}))
    for name in ignore:
        if name not in columns:
            raise ValueError(f"traits.ignore={shown(ignore)}: no column is called {name!r}{closest(name, columns)}")
    names = tuple(name for name in columns if name not in ignore)
    if not names:
        raise ValueError(f"{where} has no trait: give a row per image or class, and a column per trait.")
    return names
