"""bench.json: the results in the layout of visaebench's `EvalResults.to_dict()`, for each dictionary."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from saev.dictionary_bench.measures import MEASURES

DIMENSIONS = ("reconstruction", "concept_detection", "spatial_coherence", "disentanglement")  # ViSAEBench's


def layout(measures: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """{dictionary: {dimension: {measure: {value, higher_is_better, metadata}}}} of what was measured.

    ViSAEBench's measures have its names, the others ours, in its four dimensions and two more. metadata: low, high, null, n, and the
    difference from another dictionary where there is one.
    """
    results: dict[str, dict[str, Any]] = {}
    for row in measures.iter_rows(named=True):
        one = results.setdefault(row["member"], {dimension: {} for dimension in DIMENSIONS})
        measure = MEASURES[row["measure"]]
        if row["value"] is None or not measure.better:
            continue
        metadata = {
            key: row[key]
            for key in ("low", "high", "null", "n", "diff", "diff_low", "diff_high", "p")
            if row[key] is not None
        }
        entry: Mapping[str, Any] = {
            "value": row["value"], "higher_is_better": measure.better == "higher", "metadata": metadata,
        }  # fmt: skip
        one.setdefault(measure.dimension, {})[measure.visaebench or row["measure"]] = entry
    return results
