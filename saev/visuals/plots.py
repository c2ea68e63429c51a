"""The report's figures: the frontier of sparsity and fidelity, training curves, firing frequencies."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from saev.visuals.columns import digits
from saev.visuals.style import MARKERS, NEVER, PALETTE, colours, panel

LABELLED = 12  # points; with more, only the ends of each series are labelled
NAMED = 8  # curves; with more, curves are coloured by series
LONGEST = 24  # characters of a setting in a legend; a longer one keeps its end
DEX = 0.25  # width of a bar of the histogram, in powers of ten
HALO = [withStroke(linewidth=2.5, foreground="white")]  # labels stay legible on lines


def series_of(row: Mapping[str, Any], by: Sequence[str] = ()) -> str:
    """The name of an SAE's line: architecture and objective, or baseline and its kind, and the settings `by`."""
    parts = ("sae", "baseline", "objective") if row.get("baseline") is None else ("baseline", "variant", "code")
    kinds = [str(row[key]) for key in parts if row.get(key) is not None]
    values = {key: str(row[key]) for key in by if row.get(key) is not None}
    shown = (f"{key}={text if len(text) <= LONGEST else '…' + text[1 - LONGEST :]}" for key, text in values.items())
    return ", ".join([*kinds, *shown]) or "SAE"


def frontier(rows: Sequence[Mapping[str, Any]], by: Sequence[str] = ()) -> Figure | None:
    """NMSE against L0 (log axis), a point per SAE and a line per architecture, objective and settings `by`.

    None without a finite point.
    """
    points = [row for row in rows if finite(row, "nmse") and finite(row, "l0") and row["l0"] > 0]
    if not points:
        return None
    figure, axes = panel()
    names = sorted({series_of(row, by) for row in points})
    labelled: list[Mapping[str, Any]] = []
    for number, name in enumerate(names):
        series = sorted(
            (row for row in points if series_of(row, by) == name), key=lambda row: (row["l0"], -row["nmse"])
        )
        x, y = [row["l0"] for row in series], [row["nmse"] for row in series]
        colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
        axes.plot(x, y, marker=marker, color=colour, label=name, linewidth=1.2, markersize=6)
        axes.plot(x, y, marker=marker, color=colour, linestyle="none", markersize=6, zorder=4)  # above the labels
        for row in series if len(points) <= LABELLED else (series[0], series[-1]):
            if not has_label(row, labelled):
                style = {"xytext": (6, 5), "textcoords": "offset points", "fontsize": 8.5, "path_effects": HALO}
                axes.annotate(knob(row), (row["l0"], row["nmse"]), **style)
                labelled.append(row)
    axes.set(xscale="log", xlabel="L0: active latents per token (log scale)", ylabel="NMSE (0 = perfect, 1 = mean)")
    axes.set_ylim(0, max(row["nmse"] for row in points) * 1.15 or 1)
    lowest, highest = min(row["l0"] for row in points), max(row["l0"] for row in points)
    axes.set_xlim(lowest / 1.5, highest * 1.9)
    readable_log(axes.xaxis)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=9)
    return figure


def has_label(row: Mapping[str, Any], labelled: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a labelled point within 10 % has the same label: seeds of a setting, or lines that overlap."""
    return any(
        knob(other) == knob(row) and all(math.isclose(row[key], other[key], rel_tol=0.1) for key in ("l0", "nmse"))
        for other in labelled
    )


def knob(row: Mapping[str, Any]) -> str:
    """The setting that determines an SAE's L0: k where it has one (k-means: centroids), else the penalty."""
    if row.get("baseline") == "kmeans":
        return f"{row.get('n_latents')} centroids"
    if ("topk" in str(row.get("sae", "")) or row.get("baseline")) and row.get("k") is not None:
        return f"k={row['k']}"
    return f"λ={row['sparsity']:g}" if row.get("sparsity") is not None else str(row.get("member", ""))


def curve(
    history: Mapping[str, Mapping[str, Sequence[float]]],
    metric: str,
    label: str,
    series: Mapping[str, str] | None = None,
) -> Figure | None:
    """A training curve per SAE over training tokens, both axes logarithmic; None where nothing was logged.

    `history[member]` has equally long lists `tokens` and `metric`; `series` names each member's line, by which curves
    are coloured where there are more than NAMED.
    """
    lines = {name: positive(of["tokens"], of.get(metric, ())) for name, of in history.items()}
    lines = {name: line for name, line in lines.items() if len(line)}
    if not lines:
        return None
    figure, axes = panel()
    named = len(lines) <= NAMED or not series
    groups = {name: name if named else series[name] for name in lines}  # type: ignore[index]
    colour, labelled = colours(list(dict.fromkeys(groups.values()))), set()
    for number, (name, line) in enumerate(lines.items()):
        group = groups[name]
        dash = ("-", "--", ":")[number // len(PALETTE) % 3] if named else "-"
        shown = None if group in labelled else group
        marker = "o" if len(line) == 1 else None
        axes.plot(*line.T, color=colour[group], label=shown, linewidth=1.4, linestyle=dash, marker=marker)
        labelled.add(group)
    axes.set(xscale="log", yscale="log", xlabel="training tokens (log scale)", ylabel=label)
    for axis in (axes.xaxis, axes.yaxis):
        readable_log(axis)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1 if max(map(len, labelled)) > 18 else 2, fontsize=9
    )
    return figure


def frequencies(
    frequency: Float[np.ndarray, " n_latents"], n_tokens: int, title: str, top: float | None = None
) -> Figure:
    """Histogram of firing frequencies: % of the dictionary over log10 of the fraction of tokens; dead latents apart.

    `top` is the upper end of the y axis, equal for SAEs that are compared.
    """
    fractions, edges, never = frequency_histogram(frequency, n_tokens)
    figure, axes = panel(3.6, 2.6)
    axes.bar(edges[:-1], 100 * fractions, width=DEX, align="edge", color=PALETTE[0], edgecolor="white", linewidth=0.5)
    dead = edges[0] - 0.9
    axes.bar(dead, 100 * never, width=0.5, color=NEVER)
    axes.annotate(f"{100 * never:.0f}%" if never >= 0.005 or not never else "<1%", (dead, 100 * never), ha="center",
                  xytext=(0, 2), textcoords="offset points", fontsize=8.5)  # fmt: skip
    axes.axvline(-1, color="#666666", linewidth=1, linestyle=":")
    rarest = math.ceil(edges[0])
    powers = range(max(rarest, -4), 1)  # longer numbers would run into each other
    axes.set_xticks([dead, *powers], ["never", *(f"{100 * 10.0**power:g}%" for power in powers)], fontsize=8.5)
    axes.set_xticks(range(rarest, 1), minor=True)
    axes.set(xlabel="fires on this fraction of tokens", ylabel="latents (%)", xlim=(edges[0] - 1.3, 0.1))
    axes.set_ylim(0, top or None)
    axes.grid(False, axis="x")
    axes.set_title(title, fontsize=10, loc="left")
    return figure


def frequency_histogram(
    frequency: Float[np.ndarray, " n_latents"], n_tokens: int
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " edges"], float]:
    """(fraction of latents per bin, edges as log10 of the frequency, fraction of latents that never fire); their sum is 1.

    Bins start at the lowest frequency that `n_tokens` tokens can show, one firing.
    """
    lowest = math.floor(-math.log10(max(n_tokens, 2)) / DEX) * DEX
    edges = np.arange(round(lowest / DEX), 1) * DEX
    fires = frequency > 0
    bins = np.clip(np.floor((np.log10(frequency[fires]) - lowest) / DEX).astype(int), 0, len(edges) - 2)
    counts = np.bincount(bins, minlength=len(edges) - 1)
    return counts / max(len(frequency), 1), edges, float((~fires).mean()) if len(frequency) else 0.0


def finite(row: Mapping[str, Any], key: str) -> bool:
    """Whether the row has a finite number in this column."""
    return row.get(key) is not None and math.isfinite(row[key])


def positive(x: Sequence[float], y: Sequence[float]) -> Float[np.ndarray, "points 2"]:
    """The points that a logarithmic plot can show."""
    points = np.array([(a, b) for a, b in zip(x, y, strict=False) if a > 0 and b is not None and b > 0], float)
    return points.reshape(-1, 2)


def readable_log(axis: Any) -> None:
    """Plain numbers on a log axis; also at 2 and 5 where the axis spans little."""
    low, high = axis.get_view_interval()
    short = math.log10(high / low) < 1.3 if low > 0 else False
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if short else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
    axis.set_minor_formatter(NullFormatter())


def thousands(value: float) -> str:
    """1500000 -> 1.5M, 2000 -> 2k, 0.05 -> 0.05."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}" if value >= 1e-4 else digits(value, 1)
