"""Labels of points in a plot that lie on no other label and on no point."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import BboxBase

HALO: list[AbstractPathEffect] = [withStroke(linewidth=2.5, foreground="white")]  # labels stay legible on lines
DISTANCES = (6, 14, 24, 36, 50, 66)  # from the point, in points of 1/72 inch
NEAR = 26  # up to this distance a position without a line is preferred
LEADER = 10  # from this distance on a thin line leads to the point
RADIUS = 4.5  # of a marker
DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))


def place_labels(
    figure: Figure, axes: Axes, labels: Sequence[tuple[str, float, float]], points: Sequence[tuple[float, float]]
) -> list[Annotation]:
    """Write each label (text, x, y of its point) beside its point, at the first of the distances and directions that is free: within
    the axes, on none of the `points` and on no earlier label; near the point rather where no line passes. A label without a free
    position is left out.

    To be called when everything else is drawn: it fixes the layout.
    """
    if not labels:
        return []
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels must not move the axes
    to_pixels, per_point = axes.transData.transform, figure.dpi / 72
    centres, radius = to_pixels(np.array(points, float).reshape(-1, 2)), RADIUS * per_point
    taken = np.concatenate([centres - radius, centres + radius], 1)
    frame, lines, placed, n_points = axes.get_window_extent(renderer), along_lines(axes), [], len(taken)
    boxes = np.zeros((0, 4))  # of labels
    for text, x, y in labels:
        label = axes.annotate(text, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=8.5)
        label.set_path_effects(HALO)
        point = to_pixels((x, y))
        leaders = {(dx, dy): leader(point, dx, dy, per_point) for dx, dy in offsets()}
        others = taken[:n_points][np.abs(centres - point).max(1) >= radius]
        obstacles = np.concatenate([others, boxes])
        free = [
            position for position, of in leaders.items()
            if is_free(moved(label, *position, renderer), frame, taken) and not overlap(of, obstacles)
        ]  # fmt: skip
        if not free:
            label.remove()
            continue
        near = (
            one
            for one in free
            if math.hypot(*one) <= NEAR and not overlap(extents(moved(label, *one, renderer)), lines)
        )
        dx, dy = next(near, free[0])
        box = extents(moved(label, dx, dy, renderer))
        placed.append(label)
        boxes, taken = np.concatenate([boxes, box]), np.concatenate([taken, box, leaders[dx, dy]])
        if len(leaders[dx, dy]):
            line = {"arrowstyle": "-", "linewidth": 0.6, "color": "#666666", "shrinkA": 0, "shrinkB": RADIUS}
            axes.annotate("", (x, y), xytext=(dx, dy), textcoords="offset points", arrowprops=line, zorder=2)
    return placed


def leader(start: Float[np.ndarray, "2"], dx: float, dy: float, per_point: float) -> Float[np.ndarray, "n 4"]:
    """The line from a point (in pixels) to its label's offset, as `along`; empty where the label is beside the point."""
    far = max(abs(dx), abs(dy)) > LEADER
    return along(start + np.array([[0, 0], [dx, dy]]) * per_point) if far else np.zeros((0, 4))


def moved(label: Annotation, dx: float, dy: float, renderer: RendererAgg) -> BboxBase:
    """The box of a label, in pixels, after it has been moved to this offset from its point (in 1/72 inch)."""
    label.set(ha=("center", "left", "right")[int(np.sign(dx))], va=("center", "bottom", "top")[int(np.sign(dy))])
    label.xyann = (dx, dy)
    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer)


def along(corners: Float[np.ndarray, "corners 2"], step: float = 3.0) -> Float[np.ndarray, "n 4"]:
    """Spots along a line through these corners, `step` pixels apart, as boxes without extent."""
    spots = [np.zeros((0, 2))]
    for start, stop in itertools.pairwise(corners):
        n = max(int(np.linalg.norm(stop - start) / step), 1)
        spots.append(start + (stop - start) * np.linspace(0, 1, n + 1)[:, None])
    return np.tile(np.concatenate(spots), 2)


def along_lines(axes: Axes) -> Float[np.ndarray, "n 4"]:
    """Spots along the lines that are drawn, as `along`."""
    drawn = (line for line in axes.lines if line.get_linestyle() != "None")
    return np.concatenate([np.zeros((0, 4)), *(along(axes.transData.transform(line.get_xydata())) for line in drawn)])


def is_free(box: BboxBase, frame: BboxBase, taken: Float[np.ndarray, "n 4"]) -> bool:
    """Whether the box lies within the frame and on none of the taken boxes."""
    return bool(
        box.x0 >= frame.x0 and box.y0 >= frame.y0 and box.x1 <= frame.x1 and box.y1 <= frame.y1
    ) and not overlap(extents(box), taken)


def offsets() -> Iterator[tuple[float, float]]:
    """The positions of a label, nearest first: (dx, dy) of the corner or edge towards its point."""
    for distance in DISTANCES:
        for dx, dy in DIRECTIONS:
            scale = distance / np.hypot(dx, dy) if distance > LEADER else distance * (0.75 if dx and dy else 1)
            yield float(dx * scale), float(dy * scale)


def extents(box: BboxBase) -> Float[np.ndarray, "1 4"]:
    """(x0, y0, x1, y1) of a box."""
    return np.array([box.extents])


def overlap(some: Float[np.ndarray, "n 4"], others: Float[np.ndarray, "m 4"]) -> bool:
    """Whether one of some boxes (x0, y0, x1, y1) shares an area with one of the others, or a spot lies within it."""
    x0, y0, x1, y1 = some.T[:, :, None]
    return bool(((others[:, 0] < x1) & (others[:, 2] > x0) & (others[:, 1] < y1) & (others[:, 3] > y0)).any())
