"""Tables of results on disk: parquet, and csv for whoever opens it elsewhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from saev.files import replacing


def write_table(directory: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the rows as parquet, and as csv without the columns that hold lists; the parquet file's path.

    Each file appears whole (temporary name, then rename), parquet last: its presence says that the table is finished.
    """
    table = pl.DataFrame(list(rows), infer_schema_length=None)
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / f"{name}.csv") as file:
        table.select(pl.exclude(pl.List)).write_csv(file)
    with replacing(directory / f"{name}.parquet") as file:
        table.write_parquet(file)
    return directory / f"{name}.parquet"
