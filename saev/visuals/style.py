"""The style of figures: colour-blind safe, legible on a phone, and byte-identical from run to run."""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from saev.files import replacing
from saev.visuals.columns import thousands

# Okabe & Ito (2008) without yellow, which is too pale on white
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", "*")  # with 7 colours: 70 distinct series
INK, FAINT = "#222222", "#d9d9d9"
NEVER = "#999999"  # latents without a firing
SETTINGS: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",  # the reader's font: sharp, and a tenth of the bytes
    "svg.hashsalt": "saev",  # ids that do not change from run to run
}


def panel(width: float = 4.6, height: float = 3.4) -> tuple[Figure, Axes]:
    """A figure with one set of axes; inches. 4.6 wide keeps 10 pt text readable on a screen of 360 px."""
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        return figure, figure.add_subplot()


def data_uri(figure: Figure) -> str:
    """The figure as an SVG image, ready for an <img>'s src."""
    buffer = io.BytesIO()
    with mpl.rc_context(SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def save(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG in one step."""
    with mpl.rc_context(SETTINGS), replacing(path) as file:
        figure.savefig(file, format="png", dpi=200)


def colours(series: Sequence[str]) -> dict[str, str]:
    """A colour per series, in order: 21 different ones (after seven lighter, then darker), then they repeat."""
    return {name: shade(PALETTE[i % len(PALETTE)], i // len(PALETTE) % 3) for i, name in enumerate(series)}


class Look(NamedTuple):
    """How the points of a series look."""

    colour: str
    marker: str


def looks(series: Iterable[str]) -> dict[str, Look]:
    """Colour and marker of each series, by its place among the different ones: 210 pairs. Figures of one page give all series in the
    same order, so that an SAE looks the same in all of them; further series at the end change nothing."""
    names = list(dict.fromkeys(series))
    return {name: Look(colour, MARKERS[i % len(MARKERS)]) for i, (name, colour) in enumerate(colours(names).items())}


def shade(colour: str, level: int) -> str:
    """The colour itself (level 0), lighter (1) or darker (2); light grey for dark black."""
    white = level == 1 or colour == PALETTE[-1]
    amount = (0.0, 0.5, 0.75 if white else 0.45)[level]
    r, g, b = ((1 - amount) * channel + amount * white for channel in to_rgb(colour))
    return to_hex((r, g, b))


def columns_of(names: Sequence[str]) -> int:
    """Columns of a legend of these names."""
    return 1 if max(map(len, names)) > 18 else 2


def height_for(names: Sequence[str]) -> float:
    """Inches of a figure with these names in its legend, so that the axes keep their height."""
    return 3.1 + 0.2 * math.ceil(len(names) / columns_of(names))


def add_legend(figure: Figure, names: Sequence[str]) -> None:
    """Draw the legend below the axes; the figure has the height `height_for(names)`."""
    figure.legend(loc="outside lower center", ncols=columns_of(names), fontsize=9, frameon=False)


def readable_log(axis: Any) -> None:
    """Plain numbers on a log axis; also at 2 and 5 where the axis spans little."""
    low, high = axis.get_view_interval()
    short = math.log10(high / low) < 1.3 if low > 0 else False
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if short else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
    axis.set_minor_formatter(NullFormatter())
