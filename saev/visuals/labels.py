"""Labels of points in a plot that lie on no other label and on no point."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import BboxBase

HALO: list[AbstractPathEffect] = [withStroke(linewidth=2.5, foreground="white")]  # labels stay legible on lines
DISTANCES = (6, 14, 24, 36, 50, 66)  # from the point, in points of 1/72 inch
LEADER = 10  # from this distance on a thin line leads to the point
RADIUS = 4.5  # of a marker
DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))


def place_labels(
    figure: Figure, axes: Axes, labels: Sequence[tuple[str, float, float]], points: Sequence[tuple[float, float]]
) -> list[Annotation]:
    """Write each label (text, x, y of its point) beside its point, at the first of the distances and directions that is free: within
    the axes, on none of the `points` and on no earlier label. A label without a free position is left out.

    To be called when everything else is drawn: it fixes the layout.
    """
    if not labels:
        return []
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels must not move the axes
    per_point = figure.dpi / 72
    centres = axes.transData.transform(np.array(points, float).reshape(-1, 2))
    markers = np.concatenate([centres - RADIUS * per_point, centres + RADIUS * per_point], 1)
    frame = axes.get_window_extent(renderer)
    taken, placed = markers, []
    for text, x, y in labels:
        label = axes.annotate(text, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=8.5)
        for dx, dy in offsets():
            label.set(
                ha=("center", "left", "right")[int(np.sign(dx))], va=("center", "bottom", "top")[int(np.sign(dy))]
            )
            label.xyann = (dx, dy)
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer)  # without an arrow
            if inside(box, frame) and not overlaps(box, taken):
                taken = np.concatenate([taken, [box.extents]])
                label.set_path_effects(HALO)
                placed.append(label)
                if max(abs(dx), abs(dy)) > LEADER:
                    line = {"arrowstyle": "-", "linewidth": 0.6, "color": "#666666", "shrinkA": 0, "shrinkB": RADIUS}
                    axes.annotate("", (x, y), xytext=(dx, dy), textcoords="offset points", arrowprops=line, zorder=2)
                break
        else:
            label.remove()
    return placed


def offsets() -> Iterator[tuple[float, float]]:
    """The positions of a label, nearest first: (dx, dy) of the corner or edge towards its point."""
    for distance in DISTANCES:
        for dx, dy in DIRECTIONS:
            scale = distance / np.hypot(dx, dy) if distance > LEADER else distance * (0.75 if dx and dy else 1)
            yield float(dx * scale), float(dy * scale)


def inside(box: BboxBase, frame: BboxBase) -> bool:
    """Whether the box lies within the frame."""
    return bool(box.x0 >= frame.x0 and box.y0 >= frame.y0 and box.x1 <= frame.x1 and box.y1 <= frame.y1)


def overlaps(box: BboxBase, boxes: Float[np.ndarray, "n 4"]) -> bool:
    """Whether the box shares an area with one of the boxes (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = box.extents
    return bool(((boxes[:, 0] < x1) & (boxes[:, 2] > x0) & (boxes[:, 1] < y1) & (boxes[:, 3] > y0)).any())
