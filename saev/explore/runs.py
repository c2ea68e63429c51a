"""All dictionaries of all runs, fits and sweeps below some directories as one table, and which of them are Pareto-optimal."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64

from saev.checkpoint import CONFIG, WEIGHTS
from saev.files import read_parquet
from saev.runs.ledger import FILE as SWEEP
from saev.runs.ledger import RESULTS, Sweep
from saev.runs.sweep_summary import distinct_settings
from saev.saved import SavedDictionary, find_dictionaries
from saev.saved_folders import folders_in
from saev.shards.manifest import FILE as MANIFEST

FIRST = ("name", "run", "kind", "l0", "nmse", "dead", "n_latents", "layer", "dataset")  # columns, in this order
LAST = ("path",)
USUAL = ("kind", "sae", "objective", "decoder", "k", "d_sae", "layer", "dataset", "run")  # settings that come first


def dictionaries(directories: Sequence[Path]) -> pl.DataFrame:
    """A row per dictionary of the finished runs below the directories, and of those in no run (e.g. converted): name, run, kind (sae or
    a baseline), settings, results and path.

    Settings and results are those of the run's results.parquet, and for jobs of a sweep the settings in which these differ; without
    results, the settings of config.json. Columns without a value and histograms are left out. ValueError where there is no dictionary.
    """
    folders = [folder for directory in directories for folder in (*folders_in(directory), *alone(directory))]
    rows = [row_of(one) for one in find_dictionaries(folders)]
    table = pl.DataFrame(rows, infer_schema_length=None, strict=False)
    table = table.select(pl.exclude(pl.List, pl.Null, pl.Struct, pl.Object))
    first = [name for name in FIRST if name in table.columns]
    return table.select(*first, pl.exclude(*first, *LAST), *LAST)


def alone(directory: Path) -> Iterator[Path]:
    """The folders of dictionaries below a directory that are not a run's."""
    for folder, below, names in os.walk(directory):
        below[:] = [] if MANIFEST in names else sorted(name for name in below if name != "saes")
        if {CONFIG, WEIGHTS} <= {*names} and Path(folder) != directory:
            yield Path(folder)


def row_of(one: SavedDictionary) -> dict[str, Any]:
    """Settings and results of a saved dictionary."""
    path, about = one.path, one.provenance
    assert path is not None, "found in a directory"
    run = path.parent.parent if path.parent.name == "saes" else path.parent
    settings = {**(one.config.get("hyperparameters") or {}), **settings_of_job(run)}
    trained = {"dataset": about.get("dataset"), "layer": about.get("layer"), "tokens": about.get("token_roles")}
    results = next((row for row in results_of(run) if row["member"] == path.name), {})
    row = {**trained, **settings, **{key: value for key, value in results.items() if value is not None}}
    row.pop("member", None)
    kind = row.get("baseline") or one.config.get("kind") or "sae"
    sizes = {"n_latents": one.config["n_latents"], "d_model": one.config["d_model"]}
    names = {
        "name": path.name,
        "run": run.name if not (run.parent / SWEEP).is_file() else f"{run.parent.name}/{run.name}",
    }
    return {**row, **sizes, **names, "kind": kind, "path": str(path)}


@cache
def results_of(run: Path) -> Sequence[Mapping[str, Any]]:
    """The rows of a run's results.parquet; none where it is missing or of something else."""
    if not (run / RESULTS).is_file():
        return []
    table = read_parquet(run / RESULTS)
    return table.to_dicts() if "member" in table.columns else []


@cache
def settings_of_job(run: Path) -> Mapping[str, Any]:
    """The settings in which a job differs from the others of its sweep; {} for a single run."""
    if not (run.parent / SWEEP).is_file():
        return {}
    sweep = Sweep.load(run.parent)
    return dict(zip(sweep.jobs, distinct_settings(sweep), strict=True)).get(run.name, {})


def chosen_runs(table: pl.DataFrame, pareto: bool, layers: Sequence[str], sparse: bool) -> pl.DataFrame:
    """The rows of `dictionaries` that are Pareto-optimal (with `pareto`), of these layers (none: of all), and with an L0 below a tenth of
    the latents or an unknown one (with `sparse`)."""
    if pareto:
        table = table.filter(pl.col("pareto"))
    if layers:
        table = table.filter(pl.col("layer").cast(pl.String).is_in(list(layers)))
    if sparse and "l0" in table.columns:
        table = table.filter((pl.col("l0") <= 0.1 * pl.col("n_latents")).fill_null(True))
    return table


def with_pareto(table: pl.DataFrame) -> pl.DataFrame:
    """The table with a column `pareto`: of its dataset and layer, no other dictionary is better in one of L0 and NMSE and as good in
    the other. False where one of the two is missing or not finite."""
    if not {"l0", "nmse", "dataset", "layer"} <= {*table.columns}:
        return table.with_columns(pareto=pl.lit(False))
    table = table.with_row_index("row_number")
    optimal = np.zeros(len(table), bool)
    for group in table.partition_by("dataset", "layer"):
        points = group.select(pl.col("l0", "nmse").cast(pl.Float64).fill_null(np.nan)).to_numpy()
        optimal[group["row_number"].to_numpy()] = pareto(points)
    return table.with_columns(pareto=optimal).drop("row_number")


def pareto(points: Float64[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
    """Which points are Pareto-optimal, both coordinates being the better the smaller; points that are not finite are not.

    >>> pareto(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [3.0, np.nan]]))
    array([ True,  True, False, False])
    """
    points = np.where(np.isfinite(points).all(1, keepdims=True), points, np.inf)
    order = np.lexsort((points[:, 1], points[:, 0]))
    y = points[order, 1]
    x_first = np.searchsorted(points[order, 0], points[order, 0])  # the best of equal first coordinates stands first
    before = np.concatenate([[np.inf], np.minimum.accumulate(y)])[x_first]  # the least of smaller first coordinates
    optimal = np.empty(len(points), bool)
    optimal[order] = (y < before) & (y == y[x_first])
    return optimal


def settings_of(table: pl.DataFrame, without: Sequence[str] = ("name", "path", "l0", "nmse")) -> list[str]:
    """The columns of a table of dictionaries in which they differ, by which points can be coloured."""

    def differs(column: pl.Series) -> bool:
        return column.n_unique() > 1 and (
            column.dtype == pl.String or column.dtype.is_numeric() or column.dtype == pl.Boolean
        )

    columns = [name for name in (*USUAL, *table.columns) if name in table.columns and name not in without]
    return [name for name in dict.fromkeys(columns) if differs(table[name])]
