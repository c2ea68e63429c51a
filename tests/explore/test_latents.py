"""The table of latents: how they fire, what results say about them, and filters, against the results as written."""

import numpy as np
import polars as pl
import pytest
from explore.conftest import N_LATENTS

from saev.explore import plots
from saev.explore.latents import Filters, filtered, first_latent, latent_table
from saev.explore.results import TABLES, result_files


def test_each_latent_has_a_row_with_what_the_results_say_of_it(opened, outputs):
    table = opened.latents
    assert table["latent"].to_list() == [*range(N_LATENTS)]
    dense = opened.codes.rows().dense()
    np.testing.assert_allclose(table["frequency"], (dense != 0).mean(0))
    pooled = opened.codes.pooled("max").toarray()
    assert table["images"].to_list() == (pooled != 0).sum(0).tolist()
    silent = table.row(39, named=True)
    assert silent["images"] == 0 and silent["log10_frequency"] is None and silent["mean_value"] is None
    three = table.row(3, named=True)
    assert (three["class"], three["class_ap"], three["class_low"]) == ("wing", 0.5, 0.4), "the highest lower end"
    assert (three["trait"], three["trait_ap"], three["trait_gain"]) == ("spots", 0.4, pytest.approx(0.3)), (
        "not the common one"
    )
    assert (three["pair"], three["p_family"]) == ("c/d", 0.01), "of equal p the AUROC further from 0.5"
    assert table["class"][5] == "not beak" and table["class"][7] is None and table["class"][9] is None
    assert table["trait"].drop_nulls().to_list() == ["spots"] and table["pair"].count() == 2
    assert table["stability"].to_list()[3:5] == [0.5, 1.0] and table["stability"].count() == 2, (
        "of this dictionary alone"
    )
    assert first_latent(table) == 5
    without = latent_table(opened.codes, opened.one, {name: [] for name in TABLES}, {3: "eye spot"})
    assert (
        "class" not in without.columns
        and without["name"][3] == "eye spot"
        and without["name"].null_count() == N_LATENTS - 1
    )


def test_results_are_not_searched_in_recordings_and_codes(outputs):
    files = result_files([outputs.root, outputs.root / "probe"])
    assert [len(files[name]) for name in TABLES] == [1, 1, 1, 1]


def test_a_probe_of_another_layer_or_of_other_dictionaries_says_nothing(outputs, opened, tmp_path):
    from saev.explore.results import best_classes

    table = pl.read_parquet(outputs.root / "probe" / "p" / "classes.parquet")
    file = tmp_path / "classes.parquet"
    table.with_columns(layer=pl.lit(7)).write_parquet(file)
    assert best_classes([file], opened.one).is_empty()
    table.with_columns(layer=pl.lit(2)).write_parquet(file)
    assert len(best_classes([file], opened.one)) == 2
    for named, rows in ((outputs.root / "train" / "run", 2), (outputs.root / "fit", 0)):
        (tmp_path / "config.yaml").write_text(f"dictionaries: ['{named}']\n")
        assert len(best_classes([file], opened.one)) == rows


def test_filters_keep_the_rows_that_satisfy_all_of_them(opened):
    table = opened.latents.with_columns(name=pl.Series([None, "Eye spot"] + [None] * (N_LATENTS - 2)))
    rows = table.to_dicts()
    low, high = np.quantile(table["log10_frequency"].drop_nulls().to_numpy(), (0.2, 0.7))
    for filters, keeps in (
        (Filters(), lambda row: True),
        (Filters(frequency=(low, high)), lambda row: row["images"] > 0 and low <= row["log10_frequency"] <= high),
        (Filters(value=(0.0, 0.2)), lambda row: row["images"] > 0 and 0 <= row["log10_value"] <= 0.2),
        (Filters(class_ap=0.6), lambda row: (row["class_ap"] or 0) >= 0.6),
        (Filters(trait_gain=0.2), lambda row: (row["trait_gain"] or 0) >= 0.2),
        (Filters(p_family=0.05), lambda row: row["p_family"] is not None and row["p_family"] <= 0.05),
        (Filters(stability=0.6), lambda row: row["latent"] == 4),
        (Filters(text="SPOT"), lambda row: "spot" in f"{row['name']} {row['trait']}".lower()),
        (Filters(text="3"), lambda row: row["latent"] == 3),
        (Filters(text="(["), lambda row: False),
        (Filters(named=True), lambda row: row["name"] is not None),
        (Filters(named=True, class_ap=0.6), lambda row: False),
    ):
        assert filtered(table, filters)["latent"].to_list() == [row["latent"] for row in rows if keeps(row)], filters
    plain = table.drop("name", "class", "class_ap", "trait", "trait_gain", "pair", "p_family")
    assert len(filtered(plain, Filters(class_ap=0.5, trait_gain=0.1, p_family=0.05, named=True))) == N_LATENTS


def test_the_cells_hold_every_latent_that_fires(opened):
    cells = plots.cells(opened.latents)
    assert cells["latents"].sum() == (opened.latents["images"] > 0).sum()
    assert (cells["low_frequency"] < cells["high_frequency"]).all()
    assert plots.density_chart(opened.latents).to_dict()["mark"]["type"] == "rect"
    assert plots.cells(opened.latents.filter(images=0)).is_empty()
