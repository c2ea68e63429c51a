"""What is written in a figure can be read: no label lies on another."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from saev.visuals.plots import frequencies, frontier


def boxes(texts, figure):
    """Where the texts that show something lie, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [text.get_window_extent(canvas.get_renderer()) for text in texts if text.get_text()]


@pytest.mark.parametrize("n_tokens", [100, 1000, 10**4, 58_816, 10**6, 2 * 10**6])
def test_the_histograms_ticks_do_not_touch(n_tokens):
    figure = frequencies(np.array([0.0, 1 / n_tokens, 0.5]), n_tokens, "one")
    found = boxes(figure.axes[0].get_xticklabels(), figure)
    assert len(found) >= 4
    assert not any(one.overlaps(other) for one, other in itertools.combinations(found, 2))


def test_points_on_one_another_share_a_label():
    rows = [
        {"sae": "topk", "k": k, "l0": k + seed / 10, "nmse": 1 / k + seed} for k in (8, 16) for seed in (0, 0.001, 0.5)
    ]
    figure = frontier(rows + [{**row, "objective": "matryoshka"} for row in rows])
    assert figure and sorted(text.get_text() for text in figure.axes[0].texts) == ["k=16", "k=16", "k=8", "k=8"]
