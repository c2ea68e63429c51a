"""The frontier of sparsity and fidelity: NMSE against L0, a point per SAE, labelled by what was asked for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from saev.visuals.columns import digits, finite, missed_target
from saev.visuals.style import MARKERS, add_legend, colours, height_for, panel, readable_log

LABELLED = 12  # points; with more, only the ends of each series are labelled
LONGEST = 24  # characters of a setting in a legend; a longer one keeps its end
PLACES = (((6, 5), "left"), ((6, -12), "left"), ((-6, 5), "right"), ((-6, -12), "right"))  # of labels beside each other
HALO = [withStroke(linewidth=2.5, foreground="white")]  # labels stay legible on lines
# SAEs that differ in one of these, in architecture, objective or decoder are on different lines
LINE = ("d_sae", "lr", "init", "b_dec", "dead_tokens", "train_tokens", "normalise", "dataset", "layer", "tokens")


def series_of(rows: Sequence[Mapping[str, Any]], settings: Sequence[str] = ()) -> list[str]:
    """The name of each row's line: what it is, and of LINE and `settings` those in which the rows differ.

    >>> series_of([{"sae": "topk", "k": 8, "d_sae": 64}, {"sae": "topk", "k": 16, "d_sae": 128}])
    ['topk, d_sae=64', 'topk, d_sae=128']
    """
    keys = [key for key in dict.fromkeys([*LINE, *settings]) if key not in ("k", "sparsity", "l0_target", "seed")]
    differ = [key for key in keys if len({str(row[key]) for row in rows if row.get(key) is not None}) > 1]
    groups = len({_series(row, differ) for row in rows})
    for key in reversed(differ):  # a setting that differs only together with others is not named
        fewer = [other for other in differ if other != key]
        if len({_series(row, fewer) for row in rows}) == groups:
            differ = fewer
    return [_series(row, differ) for row in rows]


def _series(row: Mapping[str, Any], settings: Sequence[str]) -> str:
    parts = ("sae", "objective", "decoder") if row.get("baseline") is None else ("baseline", "variant", "code")
    kinds = [str(row[key]) for key in parts if row.get(key) not in (None, "plain", "free")]
    values = {key: str(row[key]) for key in settings if row.get(key) is not None}
    if row.get("baseline") == "kmeans":  # its size is what was asked for
        values.pop("d_sae", None)
    shown = (f"{key}={text if len(text) <= LONGEST else '…' + text[1 - LONGEST :]}" for key, text in values.items())
    return ", ".join([*kinds, *shown]) or "SAE"


def asked(row: Mapping[str, Any]) -> str:
    """The setting that was to determine L0: a target (with the L0 reached where it was missed), k, or the penalty."""
    if row.get("baseline") == "kmeans":
        return f"{row.get('n_latents')} centroids"
    if finite(row, "l0_target"):
        return f"target {row['l0_target']:g}" + (f", got {digits(row['l0'])}" if missed_target(row) else "")
    if ("topk" in str(row.get("sae", "")) or row.get("baseline")) and row.get("k") is not None:
        return f"k={row['k']}"
    return f"λ={row['sparsity']:g}" if row.get("sparsity") is not None else str(row.get("member", ""))


def frontier(rows: Sequence[Mapping[str, Any]], settings: Sequence[str] = ()) -> Figure | None:
    """NMSE against L0 (log axis), a point per SAE and a line per series (`series_of`); None without a finite point."""
    series = series_of(rows, settings)
    points = [
        (name, row) for name, row in zip(series, rows, strict=True) if finite(row, "nmse") and (row.get("l0") or 0) > 0
    ]
    if not points:
        return None
    names = sorted({name for name, _ in points})
    figure, axes = panel(height=height_for(names))
    labelled: list[tuple[str, Mapping[str, Any]]] = []
    for number, (name, colour) in enumerate(colours(sorted(set(series))).items()):
        members = sorted((row for of, row in points if of == name), key=lambda row: (row["l0"], -row["nmse"]))
        marker = MARKERS[number % len(MARKERS)]
        by_setting: dict[
            str, list[Mapping[str, Any]]
        ] = {}  # the line goes through the mean of equal settings, e.g. of seeds
        for row in members:
            by_setting.setdefault(asked({**row, "l0": row.get("l0_target")}), []).append(row)
        line = sorted(tuple(np.mean([[row["l0"], row["nmse"]] for row in of], 0)) for of in by_setting.values())
        axes.plot(*np.array(line).reshape(-1, 2).T, color=colour, linewidth=1.2)
        x, y = [row["l0"] for row in members], [row["nmse"] for row in members]
        label = name if members else None
        axes.plot(x, y, marker=marker, color=colour, linestyle="none", markersize=6, zorder=4, label=label)
        for row in members if len(points) <= LABELLED else (*members[:1], *members[1:][-1:]):
            if not _has_label(name, row, labelled):
                n_beside = sum(_near(row, other, 0.1) for _, other in labelled)
                (x, y), side = PLACES[n_beside % len(PLACES)]
                style = {"xytext": (x, y), "textcoords": "offset points", "fontsize": 8.5, "path_effects": HALO}
                axes.annotate(asked(row), (row["l0"], row["nmse"]), ha=side, **style)
                labelled.append((name, row))
    axes.set(xscale="log", xlabel="L0: active latents per token (log scale)", ylabel="NMSE (0 = perfect, 1 = mean)")
    axes.set_ylim(0, max(row["nmse"] for _, row in points) * 1.15 or 1)
    lowest, highest = min(row["l0"] for _, row in points), max(row["l0"] for _, row in points)
    axes.set_xlim(lowest / 1.5, highest * 1.9)
    readable_log(axes.xaxis)
    add_legend(figure, names)
    return figure


def _has_label(name: str, row: Mapping[str, Any], labelled: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether a labelled point beside this one has the same label: a seed of the same setting, or a line that overlaps."""
    return any(asked(other) == asked(row) and _near(row, other, 0.1 if of == name else 0.02) for of, other in labelled)


def _near(row: Mapping[str, Any], other: Mapping[str, Any], tolerance: float) -> bool:
    return all(math.isclose(row[key], other[key], rel_tol=tolerance) for key in ("l0", "nmse"))
