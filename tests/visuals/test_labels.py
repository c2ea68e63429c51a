"""Labels of a plot's points lie on no other label and on no point, and their positions are the same each time."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from saev.visuals.frontier import asked, frontier
from saev.visuals.labels import RADIUS, place_labels
from saev.visuals.style import panel


def drawn(figure):
    """(text, its box) of the labels, boxes of the points: (x0, y0, x1, y1) in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    texts = [text for text in axes.texts if text.get_text()]
    boxes = [Text.get_window_extent(text, canvas.get_renderer()).extents for text in texts]
    lines = [line for line in axes.lines if line.get_marker() != "None"]
    points = [axes.transData.transform(line.get_xydata()) for line in lines]
    size = RADIUS * figure.dpi / 72
    markers = [np.concatenate([xy - size, xy + size]) for of in points for xy in of]
    return [(text.get_text(), box) for text, box in zip(texts, boxes, strict=True)], markers, axes.bbox.extents


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def rows_of(n):
    """SAEs of which half are near each other, with what was asked for in four forms."""
    rng = np.random.default_rng(n)
    kinds = [
        {"sae": "topk"},
        {"sae": "batchtopk"},
        {"sae": "relu", "l0_target": 32},
        {"sae": "jumprelu", "sparsity": 1e-3},
    ]
    rows = []
    for i in range(n):
        k = 16 + i if i % 2 else 16
        near = {"l0": k + 0.2 * rng.random(), "nmse": 0.3 + 0.02 * rng.random()}
        far = {"l0": 4.0 * 2 ** (i % 7), "nmse": 0.2 + 0.6 * rng.random()}
        rows.append({**kinds[i % 4], "member": f"{i}", "k": k, "d_sae": 64 * (1 + i // 8), **(near if i % 3 else far)})
    return rows


BASELINES = [
    *({"baseline": "pca", "k": k, "n_latents": 96, "l0": float(k), "nmse": k**-0.4} for k in (1, 4, 16, 64)),
    {"baseline": "kmeans", "k": None, "code": "onehot", "n_latents": 1024, "l0": 1.0, "nmse": 0.6},
]


@pytest.mark.parametrize("baselines", [(), BASELINES])
@pytest.mark.parametrize("n", [2, 8, 24])
def test_no_label_lies_on_another_or_on_a_point(n, baselines):
    rows = rows_of(n)
    figure = frontier(rows, (), baselines)
    assert figure is not None
    labels, markers, frame = drawn(figure)
    assert len(labels) >= min(n, 6) and {text for text, _ in labels} <= {asked(row) for row in (*rows, *baselines)}
    for (_, one), (_, other) in itertools.combinations(labels, 2):
        assert not overlap(one, other)
    for (_, box), marker in itertools.product(labels, markers):
        assert not overlap(box, marker)
    for _, (x0, y0, x1, y1) in labels:
        assert x0 >= frame[0] and y0 >= frame[1] and x1 <= frame[2] and y1 <= frame[3]
    leaders = [text for text in figure.axes[0].texts if text.arrow_patch is not None]
    for leader in leaders:
        (x0, y0), (x1, y1) = leader.arrow_patch.get_transform().transform(leader.arrow_patch.get_path().vertices)[
            [0, -1]
        ]
        on = [
            sum(b[0] < x < b[2] and b[1] < y < b[3] for x, y in np.linspace((x0, y0), (x1, y1), 50)) for _, b in labels
        ]
        assert max(on) <= 1, "a line to a point passes a label"
    again = frontier(rows, (), baselines)
    assert again is not None
    np.testing.assert_array_equal([box for _, box in labels], [box for _, box in drawn(again)[0]])


def test_a_label_without_a_free_position_is_left_out():
    figure, axes = panel()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    points = [(x, y) for x in np.linspace(0, 1, 40) for y in np.linspace(0, 1, 40)]
    assert place_labels(figure, axes, [("one", 0.5, 0.5)], points) == []
    assert not axes.texts
    assert place_labels(figure, axes, [], []) == []
    (alone,) = place_labels(figure, axes, [("one", 0.5, 0.5)], [(0.5, 0.5)])
    assert alone.get_text() == "one" and max(map(abs, alone.xyann)) < 10
