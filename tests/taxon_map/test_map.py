"""`saev.map_latents`: planted latents and coalitions are found, tables are whole, and refusals."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import hypergeom
from taxon_map.planted import (
    ANIMALS,
    FAMILY,
    RARE,
    SILENT,
    D,
    N,
    identity,
    planted_codes,
    planted_recording,
    recorded,
    taxonomy,
)

import saev
from saev.baselines.kmeans import KMeansDictionary
from saev.nn import Normaliser
from saev.taxon_map.page import facts_of
from saev.taxon_map.pipeline import map_latents
from saev.taxon_map.settings import MapSettings
from saev.taxon_map.studies import groups_of

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


def test_clusters_of_images_have_no_null_and_no_coalitions(recording, caplog):
    store, _, _, _ = recording
    settings = MapSettings(rows=("cluster",), n_clusters=4, max_images=50, group="specimen", per_node=3, searches=9)
    result = map_latents({"planted": identity()}, store, settings, layer=4, device="cpu")
    assert result.results["rank"].unique().to_list() == ["cluster"] and 2 <= len(result.results) <= 4
    assert result.results["p"].null_count() == result.results["p_hypergeometric"].null_count() == len(result.results)
    assert len(result.images) == 50 and result.images["cluster"].is_sorted()
    assert not len(result.coalitions) and "no effect with rows=cluster: group, per_node, searches" in caplog.text
    assert ("Images", "data: a random 50 of 96 images, and counts are of these") in facts_of(result.maps[0])


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


def test_a_dictionary_that_cannot_be_compared_is_left_out(recording, caplog):
    settings = MapSettings(rows=("animal",), permutations=0, n_coalition=0)
    both = {"bad": nan_codes(), "good": identity()}
    result = map_latents(both, recording[0], settings, layer=4, device="cpu")
    assert [one.name for one in result.maps] == [
        "good"
    ] and "left out: bad returns scores that are not finite" in caplog.text
    with pytest.raises(ValueError, match="no dictionary could be compared"):
        map_latents({"a": nan_codes(), "b": nan_codes()}, recording[0], settings, layer=4, device="cpu")


def nan_codes() -> saev.SparseAutoencoder:
    sae = identity()
    sae.b_enc[7] = float("nan")
    return sae


@pytest.mark.parametrize(
    ("dictionary", "settings", "said"),
    [
        (identity, {"rows": ("anmal",)}, "did you mean animal"),
        (dense, {"rows": ("animal",)}, "latents fire on most tokens: other (100% of its codes are not 0): name sparse"),
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


def mapped(root, columns, codes=None, taxonomy=None, **settings):
    """The map of a new recording with these columns."""
    codes = planted_codes(np.repeat(ANIMALS, N // 4)) if codes is None else codes
    store, settings = recorded(root / "columns", codes, columns), {"permutations": 19, "searches": 9, **settings}
    return map_latents(
        {"one": identity()}, store, MapSettings(**settings), layer=4, device="cpu", directory=root / "out", taxonomy=taxonomy
    )  # fmt: skip


ANIMAL = [animal for animal in ANIMALS for _ in range(N // 4)]


def test_nodes_with_one_image_have_no_coalition_and_all_tables(tmp_path, caplog):
    result = mapped(tmp_path, {"image": [f"i{i:02}" for i in range(N)]}, rows=("image",), permutations=0, searches=0)
    assert len(result.results) == N and not len(result.coalitions)
    assert result.results["coalition_f1"].null_count() == N
    assert "no coalition: fewer than 2 images in a half: image=i00" in caplog.text


def test_ranks_that_all_images_or_parents_have_are_named(tmp_path):
    families = [FAMILY[one] for one in ANIMAL]
    genera = ["Cats" if family == "Felidae" else None for family in families]
    columns = {"kingdom": ["Animalia"] * N, "family": families, "genus": genera, "animal": ANIMAL}
    result = mapped(tmp_path, columns, rows=("kingdom", "family", "genus", "animal"))
    assert result.images["kingdom"].to_list() == ["Animalia"] * N
    assert result.maps[0].tree.common == ("Animalia",) and '"common": ["Animalia"]' in result.pages[0].read_text()
    cats = "kingdom=Animalia/family=Felidae"
    same = {row["node"]: row["same_images_as"] for row in result.results.iter_rows(named=True)}
    assert same == {"kingdom=Animalia/family=Canidae": None, cats: None, f"{cats}/genus=Cats": cats,
                    f"{cats}/genus=Cats/animal=lion": None, f"{cats}/genus=Cats/animal=lynx": None}  # fmt: skip
    higher = {row["node"]: row["higher_f1_for"] for row in result.nodes.filter(latent=0).iter_rows(named=True)}
    assert higher[cats] is None and higher[f"{cats}/genus=Cats"] is None
    assert higher[f"{cats}/genus=Cats/animal=lion"] == cats


def test_missing_values_are_counted_down_the_ranks(tmp_path, caplog):
    family = [None if i < 40 else FAMILY[animal] for i, animal in enumerate(ANIMAL)]
    mapped(tmp_path, {"family": family, "animal": ANIMAL}, rows=("family", "animal"), n_coalition=0)
    assert "40 of 96 images have no family:" in caplog.text
    assert "40 of 96 images have no animal, or no family above it" in caplog.text


def test_images_without_a_taxon_do_not_count_in_explained(tmp_path):
    label = [None if i >= 24 else "AB"[i % 2] for i in range(N)]
    codes = planted_codes(np.array(ANIMAL))
    codes[:, 6], codes[:24, 7], codes[24:, 7] = (np.arange(N) % 2) * (np.arange(N) < 24), 0, 1
    result = mapped(tmp_path, {"label": label}, codes, rows=("label",), max_latents=2, n_coalition=0)
    explained = dict(result.latents.select("latent", "explained").iter_rows())
    assert explained[6] == pytest.approx(1) and explained[7] == 0
    assert 6 in result.latents.filter(pl.col("column").is_not_null())["latent"]


def test_a_node_on_whose_images_nothing_fires_has_no_coalition(tmp_path, caplog):
    codes = planted_codes(np.array(ANIMAL))
    codes[ANIMAL.index("fox") :] = 0
    result = mapped(tmp_path, {"animal": ANIMAL}, codes, rows=("animal",), searches=0)
    assert "animal=fox" not in result.coalitions["node"] and "no latent fires" in caplog.text


def test_groups_may_be_of_the_taxonomy_and_may_be_missing(tmp_path, caplog):
    tree = tmp_path / "tree.csv"
    skins = ["NA" if i % 6 == 0 else f"s{i // 2}" for i in range(N)]
    rows = [f"{i:03}.jpg,{FAMILY[one]},x,{skin}\n" for i, (one, skin) in enumerate(zip(ANIMAL, skins, strict=True))]
    tree.write_text("".join(["path,family,animal,skin\n", *rows]))
    result = mapped(tmp_path, {"animal": ANIMAL}, taxonomy=tree, rows=("family",), group="skin")
    assert result.results["n_images"].to_list() == [48, 48] and "too few" not in caplog.text
    with pytest.raises(ValueError, match="has a column 'animal' already"):
        mapped(tmp_path / "b", {"animal": ANIMAL}, taxonomy=tree, rows=("family", "animal"))


@pytest.mark.parametrize("missing", ["NA", "nan", "?", ""])
def test_images_without_a_group_are_groups_of_their_own(missing):
    table = pl.DataFrame({"skin": ["a", missing, "a", missing, None]})
    assert len({*groups_of(table, np.arange(5), "skin").tolist()}) == 4


def test_names_of_nodes_that_collide_are_refused(tmp_path):
    columns = {"a": ["A", "A", "A/b=x", "A/b=x"] * 24, "b": ["x", "y"] * 48}
    with pytest.raises(ValueError, match="two nodes would be named a=A/b=x: replace the /"):
        mapped(tmp_path, columns, rows=("a", "b"))


def test_few_permutations_are_said(tmp_path, caplog):
    mapped(tmp_path, {"animal": ANIMAL}, rows=("animal",), permutations=5, n_coalition=0)
    assert "permutations=5: the smallest p is 1/6: give at least 19" in caplog.text


def test_pages_of_an_earlier_run_into_the_directory_are_removed(recording, tmp_path):
    settings = MapSettings(rows=("animal",), permutations=0, n_coalition=0)
    for dictionaries in ({"a": identity(), "b": identity()}, {"a": identity()}):
        result = map_latents(dictionaries, recording[0], settings, layer=4, device="cpu", directory=tmp_path)
        assert sorted(tmp_path.glob("*.html")) == sorted(result.pages)
    assert 'href="results.csv"' in result.pages[0].read_text()
