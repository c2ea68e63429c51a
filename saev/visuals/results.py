"""What a page shows of the results of SAEs: the table, the frontier beside baselines, and the curves of training."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matplotlib.figure import Figure

from saev.visuals import plots
from saev.visuals.columns import COLUMNS, failed, mark, whole
from saev.visuals.frontier import HIGHEST, beside, can_be_drawn, frontier, series_of
from saev.visuals.history import Curves, read_history
from saev.visuals.style import data_uri

Rows = Sequence[Mapping[str, Any]]


def results(
    rows: Rows,
    histories: Mapping[str, str | Path],
    page: Path,
    series: Mapping[str, str],
    settings: Sequence[str] = (),
    baselines: Rows = (),
) -> dict[str, Any]:
    """The values that results.html.j2 and training.html.j2 read.

    Args:
        rows: as of results.parquet; with `link`, the page of the SAE's run, relative to `page`.
        histories: prefix of the members' names -> metrics.jsonl.
        series: name of the line of each SAE with a row or a history (`series_by_member`).
        settings: settings in which the SAEs differ, apart from their own.
        baselines: rows of fits on the same tokens, with `run`, the directory of the fit.
    """
    columns = [column for column in COLUMNS if any(row.get(column.key) is not None for row in rows)]
    n_tokens = {row["n_tokens"] for row in rows if row.get("n_tokens")}
    shown, names = beside(rows, baselines), series_of(baselines)
    fits = {name: row["run"] for name, row in zip(names, baselines, strict=True) if row in shown}
    return {
        "columns": columns,
        "rows": [{"name": str(row["member"]), "link": row.get("link"), "failed": failed(row), "mark": mark(row),
                  "cells": [column.text(row) for column in columns]} for row in rows],
        "held_out": whole(n_tokens.pop()) if len(n_tokens) == 1 else None,
        "frontier": picture(frontier(rows, settings, baselines)),
        "omitted": [str(row["member"]) for row in rows if not can_be_drawn(row)],
        "elsewhere": sorted({*names} - {*fits}),
        "baselines": [(name, relative_link(Path(run), page), "/".join(Path(run).parts[-2:])) for name, run in fits.items()],
        "highest": HIGHEST,
        "probed": any(row.get("probe_map") is not None for row in rows),
        "curves": [uri for figure in training_curves(histories, series) if (uri := picture(figure))],
    }  # fmt: skip


def series_by_member(rows: Rows, others: Iterable[str] = (), settings: Sequence[str] = ()) -> dict[str, str]:
    """The series of each SAE, by its name; `others` that have no row are one each. The rows come first, as in the frontier, so that an
    SAE has one colour in all figures."""
    named = dict(zip((str(row["member"]) for row in rows), series_of(rows, settings), strict=True))
    return named | {name: name for name in others if name not in named}


def training_curves(histories: Mapping[str, str | Path], series: Mapping[str, str]) -> list[Figure | None]:
    """Figures of the error and of L0 over training, and of R and mAP at validations where classes were probed."""
    curves, probed = merged(histories, ("z_mse", "l0"), "train"), merged(histories, ("probe_r", "probe_map"), "val")
    labels = {"z_mse": "MSE of z (1 = mean; log scale)", "l0": "L0: active latents (log scale)"}
    figures = [plots.curve(curves, metric, label, series) for metric, label in labels.items()]
    labels = {"probe_r": "probe R of the best latents", "probe_map": "probe mAP of the best latents"}
    return figures + [plots.curve(probed, metric, label, series, log=False) for metric, label in labels.items()]


def merged(histories: Mapping[str, str | Path], metrics: Sequence[str], split: str) -> Curves:
    """The curves of several runs, by prefix + member."""
    return {f"{prefix}{name}": curve for prefix, path in histories.items()
            for name, curve in read_history(path, metrics, split).items()}  # fmt: skip


def relative_link(path: Path, page: Path) -> str:
    """The address of a file or folder in a page's links."""
    return quote(os.path.relpath(path, page.parent))


def picture(figure: Figure | None) -> str | None:
    """The figure as a data URI; None for None."""
    return None if figure is None else data_uri(figure)
