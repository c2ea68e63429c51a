"""The frontier of sparsity and fidelity: NMSE against L0, a point per SAE, labelled by what was asked for."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saev.visuals.columns import digits, finite, missed_target
from saev.visuals.labels import place_labels
from saev.visuals.style import MARKERS, Look, add_legend, height_for, looks, panel, readable_log

log = logging.getLogger(__name__)
Rows = Sequence[Mapping[str, Any]]
LABELLED = 12  # points; with more, only the ends of each series are labelled
LONGEST = 24  # characters of a setting in a legend; a longer one keeps its end
HIGHEST = 1.2  # NMSE: worse dictionaries are not drawn, they would press the others together
BASELINE = "#767676"  # grey, dashed, with hollow markers
BESIDE = 4.0  # the lines of baselines end at this multiple of the SAEs' largest L0, and begin at this fraction of their smallest
NAMES = {"pca": "PCA", "kmeans": "k-means", "random_vectors": "random", "semi_nmf": "semi-NMF"}
# SAEs that differ in one of these, in architecture, objective or decoder are on different lines
LINE = ("d_sae", "lr", "freeze", "init", "b_dec", "dead_tokens", "train_tokens", "normalise", "dataset", "layer", "tokens",
        "whiten", "rank", "refit", "centred", "unit_norm", "l1_penalty")  # fmt: skip

KINDS = ("sae", "objective", "decoder")


def series_of(rows: Sequence[Mapping[str, Any]], settings: Sequence[str] = ()) -> list[str]:
    """The name of each row's line: its label or what it is, and of LINE and `settings` those in which the rows differ.

    >>> series_of([{"sae": "topk", "k": 8, "d_sae": 64}, {"sae": "topk", "k": 16, "d_sae": 128}])
    ['topk, d_sae=64', 'topk, d_sae=128']
    """
    named = KINDS if any(row.get("label") for row in rows) else ()
    omitted = ("k", "sparsity", "l0_target", "seed", "label")
    keys = [key for key in dict.fromkeys([*named, *LINE, *settings]) if key not in omitted]
    differ = [key for key in keys if len({str(row[key]) for row in rows if row.get(key) is not None}) > 1]
    groups = len({_series(row, differ) for row in rows})
    for key in reversed(differ):  # a setting that differs only together with others is not named
        fewer = [other for other in differ if other != key]
        if len({_series(row, fewer) for row in rows}) == groups:
            differ = fewer
    return [_series(row, differ) for row in rows]


def _series(row: Mapping[str, Any], settings: Sequence[str]) -> str:
    parts = KINDS if row.get("baseline") is None else ("baseline", "variant", "code")
    parts = ("label",) if row.get("label") else parts
    kinds = [
        NAMES.get(row[key], str(row[key])) for key in parts if row.get(key) not in (None, "plain", "free", "onehot")
    ]
    values = {
        key: str(row[key]) for key in settings if row.get(key) is not None and not (key in KINDS and key in parts)
    }
    if row.get("baseline") in ("kmeans", "semi_nmf"):  # their size is what was asked for
        values.pop("d_sae", None)
    shown = (f"{key}={text if len(text) <= LONGEST else '…' + text[1 - LONGEST :]}" for key, text in values.items())
    return ", ".join([*kinds, *shown]) or "SAE"


def asked(row: Mapping[str, Any]) -> str:
    """The setting that was to determine L0: a target (with the L0 reached where it was missed), k, or the penalty."""
    if row.get("baseline") in ("kmeans", "semi_nmf"):
        return f"{row.get('n_latents')} {'centroids' if row['baseline'] == 'kmeans' else 'atoms'}"
    if finite(row, "l0_target"):
        return f"target {row['l0_target']:g}" + (f", got {digits(row['l0'])}" if missed_target(row) else "")
    if ("topk" in str(row.get("sae", "")) or row.get("baseline")) and row.get("k") is not None:
        return f"k={row['k']}"
    return f"λ={row['sparsity']:g}" if row.get("sparsity") is not None else str(row.get("member", ""))


def frontier(rows: Rows, settings: Sequence[str] = (), baselines: Rows = ()) -> Figure | None:
    """NMSE against L0 (log axis): a point per SAE and a line per series (`series_of`), grey and dashed those of `baselines`. None where
    there is no point to draw.

    A label says what was asked for (`asked`); of more than LABELLED points those at the ends of lines have one.
    """
    look, points = looks(series_of(rows, settings)), drawn(rows, settings)
    if not points:
        return None
    lines = drawn(beside(rows, baselines))
    every = [row for of in (*points.values(), *lines.values()) for row in of]
    width, height = (5.0, 0.4) if lines else (4.6, 0)
    figure, axes = panel(width, height + height_for([*points, *lines]))
    for name, of in points.items():
        draw_line(axes, name, of, look[name], linewidth=1.2)
    for name, marker in zip(lines, reversed(MARKERS), strict=False):
        draw_line(axes, name, lines[name], Look(BASELINE, marker), linestyle="--", linewidth=1, hollow=True)
    axes.set(xscale="log", xlabel="L0: active latents per token (log scale)", ylabel="NMSE (0 = perfect, 1 = mean)")
    axes.set_ylim(0, max(row["nmse"] for row in every) * 1.15 or 1)
    axes.set_xlim(min(row["l0"] for row in every) / 1.5, max(row["l0"] for row in every) * 1.9)
    readable_log(axes.xaxis)
    add_legend(figure, [*points, *lines])
    few = sum(map(len, points.values())) <= LABELLED
    named = [(name, row) for name, of in points.items() for row in (of if few else (*of[:1], *of[1:][-1:]))]
    sized = [(name, row) for name, of in lines.items() for row in of if row.get("k") is None]  # k is the L0 of others
    labels = [(asked(row), row["l0"], row["nmse"]) for row in different([*named, *sized])]
    place_labels(figure, axes, labels, [(row["l0"], row["nmse"]) for row in every])
    return figure


def drawn(rows: Rows, settings: Sequence[str] = ()) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each series that can be drawn (`can_be_drawn`), by L0."""
    series: dict[str, list[Mapping[str, Any]]] = {}
    for name, row in zip(series_of(rows, settings), rows, strict=True):
        if can_be_drawn(row):
            series.setdefault(name, []).append(row)
    return {name: sorted(of, key=lambda row: (row["l0"], -row["nmse"])) for name, of in series.items()}


def can_be_drawn(row: Mapping[str, Any]) -> bool:
    """Whether L0 is above 0 and NMSE at most HIGHEST."""
    return finite(row, "nmse") and row["nmse"] <= HIGHEST and (row.get("l0") or 0) > 0


def log_not_drawn(rows: Rows) -> None:
    """Say which dictionaries the figure of `frontier` leaves out."""
    if omitted := [str(row.get("member")) for row in rows if not can_be_drawn(row)]:
        log.info("frontier.png leaves out (NMSE not a number or above %g, or L0 0): %s", HIGHEST, "; ".join(omitted))


def beside(rows: Rows, baselines: Rows) -> list[Mapping[str, Any]]:
    """The baselines that are drawn beside SAEs: with an L0 of a quarter of their smallest to four times their largest, and single points
    (k-means) at any smaller one."""
    l0 = [row["l0"] for row in rows if can_be_drawn(row)]
    shown = (row for row in baselines if can_be_drawn(row) and l0 and row["l0"] <= BESIDE * max(l0))
    return [row for row in shown if row["l0"] >= min(l0) / BESIDE or row.get("k") is None]


def draw_line(
    axes: Axes, name: str, rows: Rows, look: Look, linestyle: str = "-", linewidth: float = 1, hollow: bool = False
) -> None:
    """The points of a series, and its line through the mean of equal settings, e.g. of seeds."""
    by_setting: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_setting.setdefault(asked({**row, "l0": row.get("l0_target")}), []).append(row)
    means = sorted(tuple(np.mean([[row["l0"], row["nmse"]] for row in of], 0)) for of in by_setting.values())
    axes.plot(*np.array(means).T, color=look.colour, linestyle=linestyle, linewidth=linewidth, zorder=2)
    x, y = [row["l0"] for row in rows], [row["nmse"] for row in rows]
    fill = "white" if hollow else look.colour
    style = {"markersize": 5 if hollow else 6, "markerfacecolor": fill, "zorder": 3 if hollow else 4}
    axes.plot(x, y, look.marker, color=look.colour, label=name, **style)


def different(named: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """The rows to be labelled: of near points with the same label one, of a series (seeds of a setting) or of lines that overlap."""
    kept: list[tuple[str, Mapping[str, Any]]] = []
    for name, row in named:
        if not any(asked(one) == asked(row) and near(row, one, 0.1 if of == name else 0.05) for of, one in kept):
            kept.append((name, row))
    return [row for _, row in kept]


def near(row: Mapping[str, Any], other: Mapping[str, Any], tolerance: float) -> bool:
    """Whether L0 and NMSE of two rows differ by at most this fraction."""
    return all(math.isclose(row[key], other[key], rel_tol=tolerance) for key in ("l0", "nmse"))
