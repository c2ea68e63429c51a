"""The report's figures: the frontier of sparsity and fidelity, training curves, firing frequencies."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from saev.visuals.columns import digits, finite, missed_target
from saev.visuals.style import MARKERS, NEVER, PALETTE, colours, panel

LABELLED = 12  # points; with more, only the ends of each series are labelled
NAMED = 8  # curves; with more, the legend names series
LONGEST = 24  # characters of a setting in a legend; a longer one keeps its end
DEX = 0.25  # width of a bar of the histogram, in powers of ten
PLACES = (((6, 5), "left"), ((6, -12), "left"), ((-6, 5), "right"), ((-6, -12), "right"))  # of labels beside each other
HALO = [withStroke(linewidth=2.5, foreground="white")]  # labels stay legible on lines
DASHES = ("-", "--", ":", "-.", (0, (6, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (9, 3)))
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
    points = [(name, row) for name, row in zip(series, rows, strict=True) if _drawable(row)]
    if not points:
        return None
    names = sorted({name for name, _ in points})
    figure, axes = panel(height=_height(names))
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
    _legend(figure, names)
    return figure


def _drawable(row: Mapping[str, Any]) -> bool:
    return finite(row, "nmse") and finite(row, "l0") and row["l0"] > 0


def _has_label(name: str, row: Mapping[str, Any], labelled: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether a labelled point beside this one has the same label: a seed of the same setting, or a line that overlaps."""
    return any(asked(other) == asked(row) and _near(row, other, 0.1 if of == name else 0.02) for of, other in labelled)


def _near(row: Mapping[str, Any], other: Mapping[str, Any], tolerance: float) -> bool:
    return all(math.isclose(row[key], other[key], rel_tol=tolerance) for key in ("l0", "nmse"))


def _columns(names: Sequence[str]) -> int:
    return 1 if max(map(len, names)) > 18 else 2


def _height(names: Sequence[str]) -> float:
    """Inches of a figure with these names in its legend, so that the axes keep their height."""
    return 3.1 + 0.2 * math.ceil(len(names) / _columns(names))


def _legend(figure: Figure, names: Sequence[str]) -> None:
    figure.legend(loc="outside lower center", ncols=_columns(names), fontsize=9, frameon=False)


def curve(
    history: Mapping[str, Mapping[str, Sequence[float]]], metric: str, label: str, series: Mapping[str, str]
) -> Figure | None:
    """A training curve per SAE over training tokens, both axes logarithmic; None where nothing was logged.

    `history[member]` has equally long lists `tokens` and `metric`; `series` names each member's line, which determines its
    colour. The legend names members, or series where there are more than NAMED.
    """
    lines = {name: positive(of["tokens"], of.get(metric, ())) for name, of in history.items()}
    lines = {name: line for name, line in lines.items() if len(line)}
    if not lines:
        return None
    colour = colours(sorted(set(series.values())))
    named, n_drawn = len(lines) <= NAMED, dict.fromkeys(series.values(), 0)
    labels = list(dict.fromkeys(lines if named else (series[name] for name in lines)))
    figure, axes = panel(height=_height(labels))
    for name, line in lines.items():
        n, n_drawn[series[name]] = n_drawn[series[name]], n_drawn[series[name]] + 1
        text = name if named else series[name] if n == 0 else None
        style = {"linestyle": DASHES[n % len(DASHES)] if named else "-", "marker": "o" if len(line) == 1 else None}
        axes.plot(*line.T, color=colour[series[name]], label=text, linewidth=1.4, **style)
    axes.set(xscale="log", yscale="log", xlabel="training tokens (log scale)", ylabel=label)
    for axis in (axes.xaxis, axes.yaxis):
        readable_log(axis)
    _legend(figure, labels)
    return figure


def frequencies(
    frequency: Float[np.ndarray, " n_latents"],
    n_tokens: int,
    title: str,
    top: float | None = None,
    colour: str = PALETTE[0],
) -> Figure:
    """Histogram of firing frequencies: % of the dictionary over log10 of the fraction of tokens; dead latents apart.

    `top` is the upper end of the y axis, equal for SAEs that are compared.
    """
    fractions, edges, never = frequency_histogram(frequency, n_tokens)
    figure, axes = panel(3.6, 2.6)
    axes.bar(edges[:-1], 100 * fractions, width=DEX, align="edge", color=colour, edgecolor="white", linewidth=0.5)
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
    axes.set_title("\n".join(textwrap.wrap(title, 38)), fontsize=10, loc="left")
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
