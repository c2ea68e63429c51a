"""The results as JSON: bench.json, ViSAEBench's measures in its layout, and measures.json, all measures."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from saev.dictionary_bench.measures import MEASURES
from saev.files import write_atomically

DIMENSIONS = ("reconstruction", "concept_detection", "spatial_coherence", "disentanglement")  # ViSAEBench's
JSON, ALL = "bench.json", "measures.json"
NUMBERS = (
    "low",
    "high",
    "null",
    "p_null",
    "n",
    "latents",
    "diff",
    "diff_low",
    "diff_high",
    "diff_above_null",
    "p",
    "p_holm",
)


def write_json(directory: Path, measures: pl.DataFrame) -> None:
    """Write bench.json (`layout`) and measures.json (`every_measure`)."""
    for name, content in ((JSON, layout(measures)), (ALL, every_measure(measures))):
        write_atomically(directory / name, json.dumps(content, indent=1).encode())


def layout(measures: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """By dictionary `visaebench.core.results.EvalResults.to_dict()`: {dimension: {measure: {value, higher_is_better, metadata}}}.

    Only the measures that ViSAEBench has, under its names: its classes know no other dimensions, and average the measures of one.
    metadata: NUMBERS, as far as they are there.
    """
    results: dict[str, dict[str, Any]] = {}
    for row in measures.iter_rows(named=True):
        one = results.setdefault(row["member"], {dimension: {} for dimension in DIMENSIONS})
        measure = MEASURES[row["measure"]]
        if measure.visaebench and row["value"] is not None:
            entry = {"value": row["value"], "higher_is_better": measure.better == "higher", "metadata": numbers(row)}
            one[measure.dimension][measure.visaebench] = entry
    return results


def every_measure(measures: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """{dictionary: {measure: {dimension, better, value, NUMBERS}}}, of those that were not measured `reason` in place of the numbers."""
    results: dict[str, dict[str, Any]] = {}
    for row in measures.iter_rows(named=True):
        measure = MEASURES[row["measure"]]
        measured = {"reason": row["reason"]} if row["value"] is None else {"value": row["value"], **numbers(row)}
        about = {
            "dimension": measure.dimension,
            "better": measure.better or None,
            "visaebench": measure.visaebench or None,
        }
        results.setdefault(row["member"], {})[row["measure"]] = about | measured
    return results


def numbers(row: dict[str, Any]) -> dict[str, float | int | str]:
    """Those of NUMBERS that a row has."""
    return {key: row[key] for key in NUMBERS if row.get(key) is not None}
