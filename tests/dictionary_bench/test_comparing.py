"""Differences between dictionaries: what decides, and what does not."""

import numpy as np
import polars as pl
import pytest

from saev.dictionary_bench.comparing import measure_rows
from saev.dictionary_bench.hierarchy import siblings
from saev.dictionary_bench.measured import Measured
from saev.dictionary_bench.of_other_verbs import stable
from saev.dictionary_bench.settings import BenchSettings
from saev.dictionary_bench.shown import is_above_null, verdict
from saev.evaluation.stability import Stability
from saev.saved import find_dictionaries


def rows(one: dict, other: dict, **options) -> dict:
    table = measure_rows({"one": one, "other": other}, ["other"], **options)
    return {row["measure"]: row for row in table.filter(member="one").iter_rows(named=True)}


def test_equal_dictionaries_of_few_levels_do_not_differ():
    """Of resamples that almost never change the shifted percentiles would lie beside the value."""
    rare = np.array([0.0] * 999 + [1.0])
    one = {"dead": Measured(0.0, draws=rare), "nmse": Measured(0.5, 1.0, draws=rare)}
    other = {"dead": Measured(0.0, draws=np.zeros(1000)), "nmse": Measured(0.5, 1.0, draws=rare)}
    for row in rows(one, other).values():
        assert row["diff"] == 0 and row["diff_low"] <= 0 <= row["diff_high"] and verdict(row) == "not shown"
        assert row["low"] <= row["value"] <= row["high"] and row["p"] == 1


def test_few_units_leave_p_to_the_resamples_and_faulty_copies_do_not_decide():
    rng = np.random.default_rng(0)
    draws = 0.3 + 0.05 * rng.standard_normal(999)
    two = {"coalitions": Measured(0.8, 0.1, draws=draws + 0.5, units=np.array([0.7, 0.9]))}
    less = {"coalitions": Measured(0.5, 0.1, draws=draws[::-1] + 0.2, units=np.array([0.4, 0.6]))}
    for values in (two, less):
        values["fvu"] = values["coalitions"]
        values["l0"] = values["coalitions"]
    table = rows(two, less)
    assert table["coalitions"]["p_by"] == "resamples" and table["coalitions"]["p"] == pytest.approx(0.002)
    assert table["coalitions"]["p_holm"] == table["coalitions"]["p"], "one test decides"
    assert table["fvu"]["p_holm"] is None and verdict(table["fvu"]) == "" == verdict(table["l0"])
    assert verdict(table["coalitions"]) == "better"
    many = np.linspace(0, 1, 12)
    exchanged = rows({"coalitions": Measured(0.6, units=many + 0.1)}, {"coalitions": Measured(0.5, units=many)}, seed=1)
    assert exchanged["coalitions"]["p_by"] == "exchange" and exchanged["coalitions"]["p"] < 0.01


def test_a_value_that_equals_its_null_but_for_rounding_is_at_chance():
    nulls = np.full(19, 0.1 + 0.2)  # 0.30000000000000004
    measured = Measured(0.3, float(nulls.mean()), nulls=nulls)
    assert measured.p_null("higher") == measured.p_null("lower") == 1
    row = rows({"coalitions": Measured(0.1 + 0.2, 0.3)}, {"coalitions": measured})["coalitions"]
    assert not is_above_null(row)


def test_seeds_of_a_method_deviate_together_in_stability(tmp_path):
    values = {"a0": [0.0, 0.5, 1.0, 1.0], "a1": [0.5, 0.5, 1.0, 1.0], "b": [0.0, 0.0, 0.5, 1.0]}
    latents = pl.concat(
        pl.DataFrame(
            {"member": name, "stability_cosine": of * 25, "stability_start": None, "stability_correlation": None}
        )
        for name, of in values.items()
    )
    dictionaries = pl.DataFrame({"member": [*values], "tokens_cosine": [0.2] * 3})
    saved = find_dictionaries(saved_with(tmp_path, {"a0": (8, 0), "a1": (8, 1), "b": (16, 0)}))
    found = stable(Stability(pl.DataFrame(), latents, dictionaries, pl.DataFrame()), saved, BenchSettings(bootstrap=50))
    deviations = {name: one["stability_cosine"].draws - one["stability_cosine"].value for name, one in found.items()}
    np.testing.assert_allclose(deviations["a0"], deviations["a1"], atol=1e-12)
    assert abs(np.corrcoef(deviations["a0"], deviations["b"])[0, 1]) < 0.5
    assert found["b"]["stability_cosine"].null == 0.2 and "stability_start" not in found["b"]


def saved_with(root, members):
    """Folders of dictionaries with these (k, seed)."""
    import saev

    for name, (k, seed) in members.items():
        sae = saev.SparseAutoencoder(4, 100, saev.TopK(k))
        saev.save_dictionary(sae, root / name, hyperparameters={"k": k, "seed": seed}, provenance={})
    return [root / name for name in members]


def test_children_are_named_as_labels_are(tmp_path):
    (tmp_path / "tree.csv").write_text("parent,child\n" + "".join(f"0,0{i}\n" for i in range(3)))
    assert siblings(tmp_path / "tree.csv", ["00", "01", "02"]) == {"0": [0, 1, 2]}
