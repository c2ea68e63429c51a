"""`saev.map_latents`: planted latents and coalitions are found, tables are whole, and refusals."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import hypergeom
from taxon_map.planted import RARE, SILENT, D, N, identity, planted_recording, taxonomy

import saev
from saev.baselines.kmeans import KMeansDictionary
from saev.nn import Normaliser
from saev.taxon_map.pipeline import map_latents
from saev.taxon_map.settings import MapSettings

ROWS = MapSettings(rows=("family", "animal"), permutations=100, searches=19)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    root = tmp_path_factory.mktemp("map")
    store, codes = planted_recording(root / "data")
    return store, codes, taxonomy(root / "tree.csv"), root


@pytest.fixture(scope="module")
def result(recording):
    store, _, tree, root = recording
    return map_latents(
        {"planted": identity()}, store, ROWS, taxonomy=tree, layer=4, directory=root / "out", device="cpu"
    )


def row(table: pl.DataFrame, node: str, latent: int | None = None) -> dict:
    chosen = (pl.col("node") == node) if latent is None else (pl.col("node") == node) & (pl.col("latent") == latent)
    return table.filter(chosen).row(0, named=True)


def test_planted_latents_are_the_best_of_their_nodes(result):
    cats = row(result.results, "family=Felidae")
    assert (cats["latent"], cats["f1"], cats["sufficiency"], cats["necessity"], cats["p"]) == (0, 1, 1, 1, 1 / 101)
    lion = row(result.results, "family=Felidae/animal=lion")
    assert (lion["latent"], lion["sufficiency"], lion["necessity"]) == (1, 20 / 24, 20 / 24)
    assert lion["p_hypergeometric"] == pytest.approx(hypergeom.sf(19, N, 24, 24))
    dogs = row(result.results, "family=Canidae")
    assert dogs["latent"] == 3 and dogs["f1"] == 1
    lynx = row(result.nodes, "family=Felidae/animal=lynx", 2)
    assert (lynx["n_firing"], lynx["n_both"], lynx["sufficiency"], lynx["necessity"]) == (48, 24, 0.5, 1)


def test_a_planted_coalition_is_found_and_judged_on_the_other_half(result):
    wolf = row(result.coalitions, "family=Canidae/animal=wolf")
    assert sorted(wolf["latents"]) == [2, 3] and " and " in wolf["coalition"]
    assert (wolf["f1"], wolf["sufficiency"], wolf["necessity"], wolf["n_test"], wolf["p"]) == (1, 1, 1, 12, 1 / 20)
    assert wolf["first_f1"] == pytest.approx(2 / 3) and wolf["null_f1"] < 0.6
    assert row(result.results, "family=Canidae/animal=wolf")["coalition_f1"] == 1


def test_tables_have_every_node_image_and_latent_once(result, recording):
    _, codes, _, root = recording
    names = ["family=Canidae", "family=Canidae/animal=fox", "family=Canidae/animal=wolf",
             "family=Felidae", "family=Felidae/animal=lion", "family=Felidae/animal=lynx"]  # fmt: skip
    assert result.results["node"].to_list() == result.coalitions["node"].to_list() == names
    fires = (codes > 0).sum(0)
    assert sorted(result.latents["latent"]) == np.flatnonzero(fires >= 3).tolist()
    assert not {SILENT, RARE} & {*result.latents["latent"]}
    assert sorted(result.images["example"]) == list(range(N)) and result.images["row"].to_list() == list(range(N))
    animals = result.images["animal"].to_list()
    assert animals == ["fox"] * 24 + ["wolf"] * 24 + ["lion"] * 24 + ["lynx"] * 24
    assert result.nodes.group_by("node").len()["len"].min() == 20
    written = pl.read_parquet(root / "out" / "map_nodes.parquet")
    assert written.equals(result.nodes) and (root / "out" / "results.csv").is_file()
    for name in ("coalitions", "images", "latents"):
        assert (root / "out" / f"map_{name}.parquet").is_file()


def test_the_map_has_the_codes_in_the_order_of_its_tables(result, recording):
    _, codes, _, _ = recording
    one = result.maps[0]
    rows = result.images.filter(pl.col("row").is_not_null()).sort("row")["example"].to_list()
    columns = result.latents.filter(pl.col("column").is_not_null()).sort("column")["latent"].to_list()
    assert np.allclose(one.shown, codes[np.ix_(rows, columns)])


def test_the_same_settings_give_the_same_tables(result, recording):
    store, _, tree, _ = recording
    again = map_latents({"planted": identity()}, store, ROWS, taxonomy=tree, layer=4, device="cpu")
    for name in ("results", "nodes", "coalitions", "images", "latents"):
        assert getattr(again, name).equals(getattr(result, name)), name


def test_threshold_and_bounds_of_the_heat_map(recording):
    store, codes, tree, _ = recording
    settings = dataclasses.replace(ROWS, threshold=0.5, max_images=40, max_latents=5, permutations=0, n_coalition=0)
    result = map_latents({"planted": identity()}, store, settings, taxonomy=tree, layer=4, device="cpu")
    fires = (codes > 0.5 * codes.max(0)) & (codes > 0)
    for latent, n in result.latents.select("latent", "n_firing").iter_rows():
        assert fires[:, latent].sum() == n
    one = result.maps[0]
    assert np.array_equal(one.codes.toarray(), codes[:, one.latents])  # also the codes that do not count as firing
    assert one.shown.shape == (40, 5) and result.images["row"].null_count() == N - 40
    assert {0, 1, 2, 3} <= {*one.latents[one.columns].tolist()}  # most of their variance is between animals
    assert result.results["p"].null_count() == len(result.results) and "coalition_f1" not in result.results.columns


def test_clusters_of_images_have_no_null(recording):
    store, _, _, _ = recording
    settings = MapSettings(rows=("cluster",), n_clusters=4, max_images=50)
    result = map_latents({"planted": identity()}, store, settings, layer=4, device="cpu")
    assert result.results["rank"].unique().to_list() == ["cluster"] and 2 <= len(result.results) <= 4
    assert result.results["p"].null_count() == result.results["p_hypergeometric"].null_count() == len(result.results)
    assert len(result.images) == 50 and result.images["cluster"].is_sorted()


def test_groups_are_permuted_together(recording):
    store, _, _, _ = recording
    nulls = [
        map_latents({"p": identity()}, store, MapSettings(rows=("animal",), group=group, n_coalition=0), layer=4, device="cpu")
        .results["null_f1"].to_numpy().mean()
        for group in (None, "specimen")
    ]  # fmt: skip
    assert nulls[1] > nulls[0]  # fewer independent units
    with pytest.raises(ValueError, match="group=camera: 3 groups have images of different animal"):
        map_latents({"p": identity()}, store, MapSettings(rows=("animal",), group="camera"), layer=4, device="cpu")


def test_conditions_choose_the_images(recording):
    store, codes, tree, _ = recording
    settings = MapSettings(rows=("animal",), where="camera=c0|c1, family=Felidae", permutations=0, searches=0)
    result = map_latents({"p": identity()}, store, settings, taxonomy=tree, layer=4, device="cpu")
    table = store.examples.with_row_index("number")
    kept = table.filter(pl.col("camera").is_in(["c0", "c1"]) & pl.col("animal").is_in(["lion", "lynx"]))[
        "number"
    ].to_list()
    assert sorted(result.images["example"]) == kept and result.results["n_images"].sum() == len(kept)
    firing = dict(result.latents.select("latent", "n_firing").iter_rows())
    assert firing[0] == (codes[kept, 0] > 0).sum() == len(kept)


def dense() -> KMeansDictionary:
    means = torch.from_numpy(np.random.default_rng(0).normal(size=(8, D)).astype(np.float32))
    return KMeansDictionary(Normaliser(torch.zeros(D), torch.ones(())), means, "inverse")


def test_dense_dictionaries_beside_sparse_ones_are_left_out(recording, caplog):
    settings = MapSettings(rows=("animal",), permutations=0, n_coalition=0)
    result = map_latents(
        {"a": identity(), "means": dense(), "b": identity(2)}, recording[0], settings, layer=4, device="cpu"
    )
    assert [one.name for one in result.maps] == ["a", "b"] and "left out: means (100%" in caplog.text
    assert result.results.filter(member="a").drop("member").equals(result.results.filter(member="b").drop("member"))


def nan_codes() -> saev.SparseAutoencoder:
    sae = identity()
    sae.b_enc[7] = float("nan")
    return sae


@pytest.mark.parametrize(
    ("dictionary", "settings", "said"),
    [
        (identity, {"rows": ("anmal",)}, "did you mean animal"),
        (dense, {"rows": ("animal",)}, "latents fire everywhere: other (100% of its codes are not 0): name sparse"),
        (nan_codes, {"rows": ("animal",)}, "not finite"),
        (identity, {"rows": ("animal",), "min_images": N + 1}, "0 latents fire on at least min_images=97 of 96 images"),
        (identity, {"rows": ("animal",), "group": "specimn"}, "did you mean specimen?"),
        (identity, {"rows": ("animal",), "tokens": "cls"}, "cls"),
        (identity, {"rows": ("animal",), "where": "camera=c9"}, "no image has this value in column 'camera'"),
        (identity, {"rows": ("animal",), "where": "specimen=lion0"}, "widen where=specimen=lion0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(recording, dictionary, settings, said):
    with pytest.raises(ValueError) as error:
        map_latents({"other": dictionary()}, recording[0], MapSettings(**settings), layer=4, device="cpu")
    assert said in str(error.value), error.value


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "rows=[]: name different columns"),
        ({"rows": ("a", "a")}, "rows=[a,a]"),
        ({"rows": ("cluster", "a")}, "clusters have no ranks"),
        ({"rows": ("a",), "pool": "most"}, "pool=most: choose max, mean or top3"),
        ({"rows": ("a",), "threshold": 1.0}, "threshold=1.0: must be below 1"),
    ],
)
def test_settings_out_of_bounds(settings, said):
    with pytest.raises(ValueError) as error:
        MapSettings(**settings)
    assert said in str(error.value)
