"""saev map: tables and a page from the command line; what is planted is found, and refusals."""

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from PIL import Image
from taxon_map.planted import N, identity, planted_recording, taxonomy

import saev

FAST = ("permutations=50", "searches=9", "device=cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The planted recording, its dictionary in a run, photos and a table of families."""
    root = tmp_path_factory.mktemp("map")
    store, _ = planted_recording(root / "data")
    saev.save_dictionary(
        identity(), root / "run" / "saes" / "planted", provenance={"layer": 4, "token_roles": "patches"}
    )
    taxonomy(root / "tree.csv")
    (root / "photos").mkdir()
    for path in store.examples["path"]:
        Image.new("RGB", (16, 16), (0, 90, 200)).save(root / "photos" / path)
    return root


def mapped(cli, folder, *arguments, run=None):
    shown = cli("map", str(run or folder / "run"), f"dataset={folder / 'data'}", *FAST, *arguments)
    assert shown.code == 0, shown.text
    files = dict(
        line.split(None, 1) for line in shown.out.splitlines() if line.startswith(("results:", "nodes:", "page:"))
    )
    return pl.read_csv(files["results:"]), pl.read_parquet(files["nodes:"]), Path(files["page:"]), shown


def test_a_map_of_families_and_animals_with_photos(cli, folder):
    arguments = (f"taxonomy={folder / 'tree.csv'}", "images=folder", f"images.root={folder / 'photos'}")
    results, nodes, page, shown = mapped(cli, folder, "rows=[family,animal]", *arguments)
    assert results["node"].to_list()[3:5] == ["family=Felidae", "family=Felidae/animal=lion"]
    assert results.filter(node="family=Felidae")["latent"].to_list() == [0]
    wolf = results.filter(node="family=Canidae/animal=wolf")
    assert wolf["coalition_f1"][0] == 1 and "Felidae" in shown.out and "coal." in shown.out
    assert {*nodes["member"]} == {"planted"} and page.read_text().count("data:image/webp") == N
    checked = cli("doctor", str(page.parent))
    assert checked.code == 0 and "finished: " in checked.out, checked.text


@pytest.mark.slow
def test_one_column_without_brackets_and_the_same_rows_again(cli, folder):
    first, second = (mapped(cli, folder, "rows=animal", "group=specimen", "where=camera!=c2")[0] for _ in range(2))
    assert first.equals(second) and first["rank"].unique().to_list() == ["animal"]


def test_names_of_latents_are_in_tables_and_on_the_page(cli, folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    saev.annotate(tmp_path / "run" / "saes" / "planted", 0, "cat <fur>")
    tree = f"taxonomy={folder / 'tree.csv'}"
    results, nodes, page, shown = mapped(cli, folder, "rows=[family,animal]", tree, run=tmp_path / "run")
    latents = pl.read_parquet(page.parent / "map_latents.parquet")
    for table in (results, nodes, latents):
        names = {latent: name for latent, name in table.select("latent", "name").iter_rows()}
        assert names.pop(0) == "cat <fur>" and {*names.values()} == {None}
    text = page.read_text()
    assert "best latent 0 (cat &lt;fur&gt;)" in text and ">0 (cat &lt;fur&gt;)</button>" in text and "cat" in shown.out
    assert json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])["names"] == {
        "0": "cat <fur>"
    }


def test_clusters(cli, folder):
    results, _, page, _ = mapped(cli, folder, "rows=cluster", "n_clusters=4", "max_images=50", "max_latents=9")
    assert results["rank"].unique().to_list() == ["cluster"] and "50 images by 9 latents" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "rows=[]: name different columns"),
        (("rows=anmal",), "did you mean animal"),
        (("rows=[animal]", "pool=most"), "pool=most: choose max, mean or top3"),
        (("rows=[animal]", "taxonomy=nothing.csv"), "taxonomy=nothing.csv is not there"),
        (("rows=[animal]", "images=folder", "images.root=/nothing"), "images.root=/nothing"),
        (("rows=[animal]", "layer=9"), "layer"),
        (("rows=cluster", "taxonomy=tree.csv"), "taxonomy: no effect with rows=cluster"),
    ],
)
def test_what_does_not_fit_is_one_line(cli, folder, arguments, said):
    shown = cli("map", str(folder / "run"), f"dataset={folder / 'data'}", *arguments, "device=cpu")
    last = shown.err.strip().splitlines()[-1]
    assert shown.code == 1 and last.startswith("error: ") and said in last, shown.text


def test_a_missing_directory_is_named(cli, folder):
    shown = cli("map", str(folder / "nothing"), f"dataset={folder / 'data'}", "rows=animal")
    assert shown.code == 1 and "nothing is not there" in shown.err
