"""Figures of the report: training curves and firing frequencies."""

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from saev.visuals.style import MARKERS, NEVER, PALETTE, Look, add_legend, height_for, looks, panel, readable_log

FIRST = Look(PALETTE[0], MARKERS[0])
NAMED = 8  # curves; with more, the legend names series
DEX = 0.25  # width of a bar of the histogram, in powers of ten
DASHES = ("-", "--", ":", "-.", (0, (6, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (9, 3)))


def curve(
    history: Mapping[str, Mapping[str, Sequence[float]]],
    metric: str,
    label: str,
    series: Mapping[str, str],
    log: bool = True,
) -> Figure | None:
    """A training curve per SAE over training tokens (log axis); the y axis is logarithmic with `log`, else it begins at 0 where no value is
    below. None where nothing was logged.

    `history[member]` has equally long lists `tokens` and `metric`; `series` names each member's line, which determines how it looks
    (`looks`). The legend names members, or series where there are more than NAMED.
    """
    lines = {name: known(of["tokens"], of.get(metric, ()), log) for name, of in history.items()}
    lines = {name: line for name, line in lines.items() if len(line)}
    if not lines:
        return None
    look = looks(series.values())
    named, n_drawn = len(lines) <= NAMED, dict.fromkeys(series.values(), 0)
    labels = list(dict.fromkeys(lines if named else (series[name] for name in lines)))
    figure, axes = panel(height=height_for(labels))
    for name, line in lines.items():
        n, n_drawn[series[name]] = n_drawn[series[name]], n_drawn[series[name]] + 1
        text = name if named else series[name] if n == 0 else None
        style = {"linestyle": DASHES[n % len(DASHES)] if named else "-", "marker": look[series[name]].marker}
        every = None if len(line) == 1 else (0.02 + 0.06 * (n % 4), 0.25)  # of the length of the axes
        axes.plot(
            *line.T,
            color=look[series[name]].colour,
            label=text,
            linewidth=1.4,
            markevery=every,
            markersize=4.5,
            **style,
        )
    axes.set(xscale="log", yscale="log" if log else "linear", xlabel="training tokens (log scale)", ylabel=label)
    if not log and all(line[:, 1].min() >= 0 for line in lines.values()):
        axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis)[: 1 + log]:
        readable_log(axis)
    add_legend(figure, labels)
    return figure


def frequencies(
    frequency: Float[np.ndarray, " n_latents"],
    n_tokens: int,
    title: str,
    top: float | None = None,
    look: Look = FIRST,
) -> Figure:
    """Histogram of firing frequencies: % of the dictionary over log10 of the fraction of tokens; dead latents apart.

    `look` is the SAE's in the other figures; `top` is the upper end of the y axis, equal for SAEs that are compared.
    """
    fractions, edges, never = frequency_histogram(frequency, n_tokens)
    figure, axes = panel(3.6, 2.6)
    axes.bar(edges[:-1], 100 * fractions, width=DEX, align="edge", color=look.colour, edgecolor="white", linewidth=0.5)
    axes.plot(0.03, 0.94, look.marker, color=look.colour, transform=axes.transAxes, clip_on=False)
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
    axes.set_title("\n".join(textwrap.wrap(title.replace(",", ", "), 38)), fontsize=10, loc="left")
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


def known(x: Sequence[float], y: Sequence[float], log: bool = True) -> Float[np.ndarray, "points 2"]:
    """The points with finite coordinates, x above 0; with `log` y above 0, too."""
    points = np.array([(a, math.nan if b is None else b) for a, b in zip(x, y, strict=False)], float).reshape(-1, 2)
    return points[np.isfinite(points).all(1) & (points[:, 0] > 0) & ((points[:, 1] > 0) | (not log))]
