"""All dictionaries as one table, and the Pareto set against brute force."""

import numpy as np
import polars as pl
import pytest
from explore.conftest import N_LATENTS

from saev.explore import plots
from saev.explore.runs import chosen_runs, dictionaries, pareto, settings_of, with_pareto


def test_the_table_has_settings_and_results_of_runs_and_sweeps_and_of_dictionaries_alone(outputs, tiny):
    table = dictionaries([outputs.root])
    rows = {(row["run"], row["name"]): row for row in table.to_dicts()}
    assert {*rows} == {("run", "k=2"), ("run", "k=4"), ("sweep/0", "k=3"), ("sweep/1", "k=3"), ("fit", "base")}
    assert rows["run", "k=4"]["nmse"] == 0.3 and rows["run", "k=4"]["k"] == 4 and rows["run", "k=4"]["kind"] == "sae"
    assert [rows[f"sweep/{i}", "k=3"]["learning_rate"] for i in (0, 1)] == [1e-3, 1e-4]
    base = rows["fit", "base"]
    assert base["l0"] is None and base["layer"] == 2 and base["dataset"] == tiny.name and base["n_latents"] == N_LATENTS
    assert table.columns[0] == "name" and table.columns[-1] == "path" and "frequency_histogram" not in table.columns
    assert rows["run", "k=4"]["path"] == str(outputs.dictionary)
    assert {"run", "k"} <= {*settings_of(table)} and "dataset" not in settings_of(table)
    with pytest.raises(ValueError, match="is not there"):
        dictionaries([outputs.root / "missing"])


def test_the_pareto_set_is_that_of_comparing_all_pairs():
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 5, 60):
        points = rng.integers(0, 6, (n, 2)).astype(float)
        points[rng.random((n, 2)) < 0.05] = np.nan
        better = (points[:, None] <= points[None]).all(2) & (points[:, None] < points[None]).any(2)
        finite = np.isfinite(points).all(1)
        np.testing.assert_array_equal(pareto(points), finite & ~better.any(0) if n else finite)


def test_the_pareto_set_is_one_of_each_dataset_and_layer():
    table = pl.DataFrame({"l0": [1.0, 2, 2, None], "nmse": [0.5, 0.6, 0.6, 0.1], "dataset": "d", "layer": [1, 1, 2, 1]})
    assert with_pareto(table)["pareto"].to_list() == [True, False, True, False]
    assert with_pareto(table.drop("l0"))["pareto"].to_list() == 4 * [False]


def test_runs_are_chosen_by_layer_sparsity_and_the_pareto_set():
    table = pl.DataFrame(
        {"l0": [1.0, 30.0, None, 2.0], "n_latents": 100, "layer": [1, 1, 1, 2], "pareto": [True, True, False, False]}
    ).with_row_index("row")
    for (pareto_alone, layers, sparse), expected in (
        ((False, [], False), [0, 1, 2, 3]), ((True, [], False), [0, 1]), ((False, ["1"], False), [0, 1, 2]),
        ((False, [], True), [0, 2, 3]), ((True, ["2"], True), []),
    ):  # fmt: skip
        assert chosen_runs(table, pareto_alone, layers, sparse)["row"].to_list() == expected
    assert len(chosen_runs(table.drop("l0"), False, [], True)) == 4


def test_the_plot_has_a_point_of_each_finite_row(outputs):
    table = with_pareto(dictionaries([outputs.root]))
    for colour, shape in (("kind", None), ("k", "layer"), ("run", "kind")):
        spec = plots.frontier_chart(table, colour, shape).to_dict()
        (data,) = spec["datasets"].values()
        assert len(data) == 4 and sum(row["pareto"] for row in data) == 3, "k=3 with the larger NMSE is not"
        assert {layer["mark"]["type"] for layer in spec["layer"]} == {"line", "point"}
