"""bench.html: the results of `saev bench`. One file without network; a small script sorts the table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from saev.dictionary_bench.measures import MEASURES
from saev.dictionary_bench.shown import (
    ends,
    is_above_null,
    left_out,
    measured_names,
    one_per_seed,
    verdict,
    verdicts,
    written,
)
from saev.visuals.columns import MISSING, whole
from saev.visuals.page import write_page
from saev.visuals.style import SETTINGS, add_legend, data_uri, looks

MOST = 8  # dictionaries in the radar
LEVEL = 0.05  # of p after Holm: differences above it are folded
ARROWS = {"higher": "↑", "lower": "↓", "": ""}


def write_bench_page(
    path: str | Path,
    results: pl.DataFrame,
    measures: pl.DataFrame,
    seeds: pl.DataFrame,
    against: Sequence[str] = (),
    files: Mapping[str, str | Path] | None = None,
    title: str = "Bench of dictionaries",
) -> Path:
    """Write the page in one step and return its path. The tables are those of `saev.bench`."""
    names = measured_names(measures)
    cells = {(row["member"], row["measure"]): row for row in measures.iter_rows(named=True)}
    members = results["member"].to_list()
    drawn = one_per_seed(members, seeds)[:MOST]
    rows = [
        row for row in measures.iter_rows(named=True) if row["diff"] is not None and MEASURES[row["measure"]].better
    ]
    shown_first = [row for row in rows if row["p_holm"] is not None and row["p_holm"] <= LEVEL]
    return write_page(
        path, "bench_page.html.j2", title=title, facts=facts_of(results, against), against=", ".join(against),
        headings=[(MEASURES[name].label, ARROWS[MEASURES[name].better]) for name in names],
        rows=[{"name": member, "cells": [shown(cells.get((member, name))) for name in names]} for member in members],
        radar=radar(drawn, names, cells), radar_members=drawn, n_members=len(members),
        verdicts=verdicts(rows), significant=[difference(row) for row in shown_first],
        further=[difference(row) for row in rows if row not in shown_first], seeds=seed_cells(seeds, names), left_out=left_out(measures),
        explained=[(MEASURES[name].label, MEASURES[name].meaning, MEASURES[name].null) for name in names], files=files,
    )  # fmt: skip


def difference(row: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of a difference, and the numbers by which it is sorted."""
    numbers = {"sort": row["diff"], "sort_low": row["diff_low"], "sort_p": row["p"], "sort_holm": row["p_holm"]}
    return {
        "member": row["member"], "measure": MEASURES[row["measure"]].label, "diff": written(row["diff"], signed=True),
        "ends": ends(row, "diff_low", "diff_high") or MISSING, "p": written(row["p"]), "p_holm": written(row["p_holm"]),
        "verdict": verdict(row) or MISSING, **{key: "" if value is None else value for key, value in numbers.items()},
    }  # fmt: skip


def facts_of(results: pl.DataFrame, against: Sequence[str]) -> list[tuple[str, str]]:
    """What was measured, as (name, value) pairs."""
    pairs = [
        ("Dictionaries", whole(len(results))),
        ("Recordings", ", ".join(results["dataset"].unique(maintain_order=True))),
        ("Images", whole(results["n_images"][0])),
        ("Layers", ", ".join(map(str, results["layer"].unique().sort()))),
        ("Tokens", ", ".join(results["tokens"].unique(maintain_order=True))),
        ("Compared with", ", ".join(against)),
    ]
    return [(name, value) for name, value in pairs if value]


def shown(row: Mapping[str, Any] | None) -> dict[str, Any]:
    """The texts of a cell, and the number by which it is sorted."""
    if row is None or row["value"] is None:
        return {
            "value": MISSING,
            "ends": "",
            "null": "",
            "sort": "",
            "weak": False,
            "reason": (row or {}).get("reason") or "",
        }
    null = "" if row["null"] is None else written(row["null"])
    return {"value": written(row["value"]), "ends": ends(row), "null": null, "sort": row["value"], "weak": not is_above_null(row),
            "reason": ""}  # fmt: skip


def seed_cells(seeds: pl.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the table of means over seeds."""
    return [
        {"name": row["members"],
         "cells": [mean_and_std(row.get(name), row.get(f"{name}_std")) for name in names]}
        for row in seeds.iter_rows(named=True)
    ]  # fmt: skip


def mean_and_std(mean: float | None, std: float | None) -> str:
    """A cell of the table of seeds."""
    return MISSING if mean is None else f"{written(mean)} ± {written(std)}"


def radar(
    members: Sequence[str], names: Sequence[str], cells: Mapping[tuple[str, str], Mapping[str, Any]]
) -> str | None:
    """A figure of the measures that have a null: each axis goes from the worst value or null to the best. None for fewer than 3."""
    axes = [name for name in names if any(has_null(cells.get((member, name))) for member in members)]
    if len(axes) < 3:
        return None
    values, nulls = (
        np.array([[cells.get((m, name), {}).get(key) for name in axes] for m in members], np.float64)
        for key in ("value", "null")
    )
    sign = np.array([1.0 if MEASURES[name].better == "higher" else -1.0 for name in axes])
    every = np.concatenate([values, nulls]) * sign
    low, high = np.nanmin(every, 0), np.nanmax(every, 0)
    scaled = [
        (x * sign - low) / np.where(high > low, high - low, 1) for x in (values, np.nanmean(nulls, 0, keepdims=True))
    ]
    angle = np.linspace(0, 2 * np.pi, len(axes), endpoint=False)
    look = looks(members)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(5.2, 5.6), layout="constrained", facecolor="white")
        plot = figure.add_subplot(projection="polar")
        for member, row in zip(members, scaled[0], strict=True):
            plot.plot(
                [*angle, angle[0]],
                [*row, row[0]],
                color=look[member].colour,
                label=member,
                linewidth=1.4,
                marker=look[member].marker,
                markersize=4,
            )
        null = scaled[1][0]
        plot.fill([*angle, angle[0]], [*null, null[0]], color="#666666", alpha=0.25, linewidth=0)
        plot.plot([*angle, angle[0]], [*null, null[0]], color="#666666", linestyle=":", label="null, mean of all")
        plot.set_xticks(angle, [""] * len(axes))
        for at, name in zip(angle, axes, strict=True):  # outside the rim: text begins, is centred or ends there
            side = "center" if abs(np.cos(at)) < 0.2 else "left" if np.cos(at) > 0 else "right"
            above = "center" if abs(np.sin(at)) < 0.9 else "bottom" if np.sin(at) > 0 else "top"
            plot.text(at, 1.12, MEASURES[name].label.replace(", ", ",\n"), ha=side, va=above, fontsize=9)
        plot.set_yticks([0, 0.5, 1], ["", "", ""])
        plot.set_ylim(-0.1, 1.05)
        add_legend(figure, [*members, "null, mean of all"])
    return data_uri(figure)


def has_null(row: Mapping[str, Any] | None) -> bool:
    """Whether a measure has a value and a null."""
    return row is not None and row["value"] is not None and row["null"] is not None
