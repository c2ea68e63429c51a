"""What is written in a figure can be read: no label lies on another."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from saev.visuals.columns import COLUMNS, mark, remarks
from saev.visuals.frontier import BASELINE, asked, frontier, series_of
from saev.visuals.plots import curve, frequencies
from saev.visuals.results import results, series_by_member
from saev.visuals.style import colours, looks


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


ROWS = [
    {"member": "a", "sae": "relu", "sparsity": 1e-3, "l0_target": 32, "l0": 45.0, "nmse": 0.3, "d_sae": 64},
    {"member": "b", "sae": "jumprelu", "sparsity": 1e-3, "l0_target": None, "l0": 44.0, "nmse": 0.31, "d_sae": 64},
    {"member": "c", "sae": "batchtopk", "objective": "plain", "decoder": "archetypal", "k": 16, "l0": 16.0, "nmse": 0.4, "d_sae": 64},
    {"member": "d", "sae": "batchtopk", "objective": "plain", "decoder": "free", "k": 16, "l0": 16.2, "nmse": 0.35, "d_sae": 64},
    {"member": "e", "sae": "batchtopk", "objective": "plain", "decoder": "free", "k": 16, "l0": 16.3, "nmse": 0.25, "d_sae": 128},
]  # fmt: skip


def test_labels_say_what_was_asked_for():
    assert [asked(row) for row in ROWS] == ["target 32, got 45.0", "λ=0.001", "k=16", "k=16", "k=16"]
    assert asked({**ROWS[0], "l0": 33.0}) == "target 32"
    texts = [text.get_text() for text in frontier(ROWS).axes[0].texts]
    assert sorted(texts) == sorted(asked(row) for row in ROWS)


def test_a_line_joins_saes_that_differ_in_sparsity_alone():
    assert series_of(ROWS) == [
        "relu, d_sae=64", "jumprelu, d_sae=64", "batchtopk, archetypal, d_sae=64", "batchtopk, d_sae=64", "batchtopk, d_sae=128",
    ]  # fmt: skip
    same = [{**ROWS[3], "k": k, "seed": k, "nmse": 1 / k, "l0": float(k)} for k in (8, 16, 32)]
    assert len(set(series_of(same))) == 1
    both = [{**row, "lr": 1 / row["k"], "d_sae": row["k"]} for row in same]  # one of two settings names the line
    assert series_of(both) == ["batchtopk, d_sae=8", "batchtopk, d_sae=16", "batchtopk, d_sae=32"]
    assert len(set(series_of(same, ["batch_size"]))) == 1
    assert len(set(series_of([{**row, "batch_size": row["k"]} for row in same], ["batch_size"]))) == 3


def test_lines_of_a_study_have_its_labels():
    study = [
        {**ROWS[3], "label": label, "freeze": freeze, "init": init}
        for label, freeze, init in (
            ("trained", "none", "data"),
            ("untrained", "all", "data"),
            ("vectors", "all", "tokens"),
        )
    ]
    assert series_of(study) == ["trained", "untrained", "vectors"]
    wide = [{**row, "d_sae": 128} for row in study]
    assert series_of([*study, *wide])[::3] == ["trained, d_sae=64", "trained, d_sae=128"]
    relu = [{**row, "sae": "relu"} for row in study]
    assert series_of([*study, *relu])[::3] == ["trained, sae=batchtopk", "trained, sae=relu"]
    pca = {"member": "p", "baseline": "pca", "d_sae": None, "l0": 16.0, "nmse": 0.5}
    assert series_of([*study, pca, ROWS[0]]) == ["trained", "untrained", "vectors", "PCA", "relu"]


def test_the_line_goes_through_the_mean_of_seeds():
    rows = [{**ROWS[3], "seed": s, "k": k, "l0": k + s, "nmse": 1 / k} for k in (8, 16) for s in (0, 2)]
    (line, points) = frontier(rows).axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), [9, 17])
    assert len(points.get_xdata()) == 4


def test_labels_beside_each_other_do_not_overlap():
    rows = [{**ROWS[3], "k": k, "l0": 16.0 + k / 100, "nmse": 0.35, "seed": k} for k in (16, 17, 18, 19)]
    figure = frontier([*rows, {**ROWS[3], "k": 64, "l0": 64.0, "nmse": 0.2}])
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes(figure.axes[0].texts, figure), 2))


def test_a_long_title_is_not_cut():
    figure = frequencies(np.array([0.0, 0.5]), 1000, "sae=batchtopk,k=16,init=archetypal,decoder=archetypal")
    (box,) = boxes([text for text in figure.findobj(Text) if "archetypal" in text.get_text()], figure)
    assert box.x1 <= figure.bbox.width


def test_colours_do_not_clash():
    made = colours([f"{i}" for i in range(21)])
    assert len(set(made.values())) == 21


def test_an_sae_has_one_colour_and_marker():
    rows = [{**ROWS[3], "member": f"{i}", "lr": 1 / (i + 1), "nmse": 0.1 * i + 0.1} for i in range(9)]
    rows[4]["nmse"] = float("nan")  # not drawn, and no other's colour changes
    series = series_by_member(rows, ["further"])
    history = {name: {"tokens": [10, 20], "z_mse": [1, 0.5]} for name in series}
    lines = curve(history, "z_mse", "MSE", series).axes[0].lines
    of_curves = {line.get_color(): line.get_marker() for line in lines}
    (points,) = frontier(rows).axes
    of_points = {line.get_color(): line.get_marker() for line in points.lines if line.get_marker() != "None"}
    assert len(of_curves) == 10 and len(of_points) == 8 and of_points.items() <= of_curves.items()
    look = looks(series.values())
    assert {of.colour: of.marker for of in look.values()} == of_curves
    (bars,) = frequencies(np.array([0.0, 0.5]), 100, "one", None, look[series["3"]]).axes
    assert (
        bars.lines[0].get_marker() == look[series["3"]].marker and bars.lines[0].get_color() == look[series["3"]].colour
    )


def test_baselines_are_grey_lines_beside_the_saes():
    pca = [{"baseline": "pca", "whiten": False, "k": k, "l0": float(k), "nmse": 1 / k} for k in (1, 4, 16, 64, 256)]
    more = [
        {"baseline": "kmeans", "n_latents": 512, "l0": 1.0, "nmse": 0.7},
        {"baseline": "semi_nmf", "n_latents": 256, "l0": 50.0, "nmse": 0.3},
        {"baseline": "random_vectors", "variant": "tokens", "k": 16, "l0": 16.0, "nmse": 0.6},
        {"baseline": "random_vectors", "variant": "tokens", "k": None, "l0": 2048.0, "nmse": 0.01},  # far from the SAEs
    ]
    figure = frontier(ROWS, (), [*pca, *more])
    grey = {line.get_label(): line.get_xdata() for line in figure.axes[0].lines if line.get_color() == BASELINE}
    points = {name: list(x) for name, x in grey.items() if not name.startswith("_")}
    assert points == {"PCA": [4, 16, 64], "k-means": [1], "semi-NMF": [50], "random, tokens": [16]}
    shown = results(
        ROWS, {}, Path("report.html"), {}, (), [{**row, "run": f"fit/{i}"} for i, row in enumerate([*pca, *more])]
    )
    assert [name for name, *_ in shown["baselines"]] == ["PCA", "k-means", "semi-NMF", "random, tokens"] and shown[
        "elsewhere"
    ] == []
    far = [{**row, "l0": 2048.0, "run": "fit/0"} for row in more[:1]]
    assert results(ROWS, {}, Path("report.html"), {}, (), far)["elsewhere"] == ["k-means"]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "512 centroids" in texts and "256 atoms" in texts
    colours_alone = [line.get_color() for line in frontier(ROWS).axes[0].lines]
    assert colours_alone == [line.get_color() for line in figure.axes[0].lines if line.get_color() != BASELINE]


def test_an_sae_far_above_1_does_not_hide_the_others():
    figure = frontier([*ROWS, {**ROWS[0], "member": "z", "nmse": 7e4}])
    assert figure.axes[0].get_ylim()[1] < 1
    assert frontier([{**ROWS[0], "nmse": 7e4}]) is None


def test_probe_scores_may_be_0_or_below():
    history = {"a": {"tokens": [0, 10, 20, 30], "probe_r": [0.2, -0.1, 0.0, float("nan")]}}
    (axes,) = curve(history, "probe_r", "R", {"a": "a"}, log=False).axes
    assert axes.lines[0].get_xydata().tolist() == [[10, -0.1], [20, 0]] and axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] < -0.1, "the lowest point is within the axes"
    assert curve(history, "probe_map", "mAP", {"a": "a"}, log=False) is None


@pytest.mark.parametrize("n", [1, 4, 8, 20])
def test_the_names_of_axes_are_not_cut(n):
    rows = [{**ROWS[3], "member": f"a long name {i}", "lr": 1 / (i + 1), "nmse": 0.1} for i in range(n)]
    history = {row["member"]: {"tokens": [10, 20], "z_mse": [1, 0.5]} for row in rows}
    series = dict(zip(history, series_of(rows), strict=True))
    for figure in (frontier(rows), curve(history, "z_mse", "MSE of z (1 = mean; log scale)", series)):
        (box,) = boxes([figure.axes[0].yaxis.label], figure)
        assert box.y0 >= 0 and box.y1 <= figure.bbox.height and figure.axes[0].bbox.height > 150


def test_what_went_wrong_is_said():
    target = next(column for column in COLUMNS if column.key == "l0")
    assert target.text(ROWS[0]) == "45.0 (32)" and target.text(ROWS[1]) == "44.0"
    assert [mark(row) for row in ({"nmse": 1.2}, {"nmse": 0.9}, {"nmse": float("nan"), "failed": True})] == [
        "NMSE above 1", "", "diverged",
    ]  # fmt: skip
    assert "missed l0_target=32" in remarks(ROWS[0])[0] and not remarks(ROWS[1])
    assert "worse than always answering the mean" in remarks({"nmse": 7e4})[0]
