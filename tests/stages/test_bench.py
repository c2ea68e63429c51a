"""saev bench: what is planted is found, tables, page and json, comparisons, and refusals."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from taxon_map.planted import D, identity, planted_recording, recorded

import saev
from saev.dictionary_bench.effects import Given, without_effect
from saev.dictionary_bench.json_layout import DIMENSIONS
from saev.dictionary_bench.measures import MEASURES
from saev.dictionary_bench.pipeline import bench
from saev.dictionary_bench.settings import BenchSettings

STABLE = ("stability_cosine", "stability_start", "stability_correlation")
FAST = ("bootstrap=60", "permutations=3", "device=cpu", "min_images=5", "examples=all", "labels=animal")


def random_directions(seed: int) -> saev.SparseAutoencoder:
    """The planted dictionary with its encoder's directions turned at random."""
    sae = identity()
    turned = torch.linalg.qr(torch.randn(D, D, generator=torch.manual_seed(seed)))[0]
    sae.encoder.copy_(turned)
    sae.w_dec.copy_(turned)
    return sae


def save(run: Path, name: str, sae, provenance, **settings) -> None:
    saev.save_dictionary(sae, run / "saes" / name, hyperparameters={"sae": "relu", **settings}, provenance=provenance)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The planted recording, another of other animals, and a run with the planted dictionary and two random ones."""
    root = tmp_path_factory.mktemp("bench")
    _, codes = planted_recording(root / "data")
    recorded(root / "other", codes[:90], {"animal": np.repeat(["cow", "hen"], 45).tolist()})
    where = {"layer": 4, "token_roles": "patches", "dataset": "data"}
    save(root / "run", "planted", identity(), where, seed=0)
    for seed in (0, 1):
        save(root / "run", f"random,seed={seed}", random_directions(seed), where, freeze="all", seed=seed)
    (root / "tree.csv").write_text("parent,child\n" + "".join(f"animal,{name}\n" for name in ("lion", "lynx", "wolf")))
    np.save(root / "embeddings.npy", codes[:, :4].astype(np.float32) + 0.1)
    return root


def benched(cli, folder, *arguments, run="run", dataset="data"):
    shown = cli("bench", str(folder / run), f"dataset={folder / dataset}", *FAST, *arguments)
    assert shown.code == 0 and "page:" in shown.out, shown.text
    files = dict(
        line.split(None, 1)
        for line in shown.out.splitlines()
        if line.startswith(("results:", "measures:", "page:", "json:"))
    )
    directory = Path(files["page:"]).parent
    return (
        pl.read_parquet(directory / "results.parquet"),
        pl.read_parquet(directory / "measures.parquet"),
        directory,
        shown,
    )


def test_what_is_planted_is_found_and_compared(cli, folder):
    given = (
        f"hierarchy={folder / 'tree.csv'}",
        f"embeddings={folder / 'embeddings.npy'}",
        f"transfer=[{folder / 'other'}]",
    )
    results, measures, directory, shown = benched(cli, folder, *given, 'against="random,seed=0"')
    planted, random, _ = results.rows(named=True)
    assert [row["member"] for row in (planted, random)] == ["planted", "random,seed=0"]
    for name in ("coalitions", "preservation"):
        assert planted[name] > planted[f"{name}_null"], name
        assert planted[name] > random[name], name
    assert planted["nmse"] == pytest.approx(0) and planted["nmse_null"] == 1 and planted["preservation"] == 1
    assert (
        -1 <= planted["monosemanticity"] <= 1
        and planted["transfer"] > planted["transfer_null"]
        and planted["absorption_n"] == 3
    )
    differences = measures.filter(member="planted", measure="coalitions").row(0, named=True)
    assert differences["diff"] == pytest.approx(planted["coalitions"] - random["coalitions"])
    assert differences["diff_low"] < differences["diff"] < differences["diff_high"] and 0 < differences["p"] <= 1
    assert measures.filter(member="random,seed=0")["diff"].null_count() == len(MEASURES)
    seeds = pl.read_parquet(directory / "seeds.parquet").row(0, named=True)
    assert seeds["n_seeds"] == 2 and seeds["nmse_std"] == pytest.approx(results["nmse"][1:].std())
    stable = {row["member"]: row["stability_cosine"] for row in results.iter_rows(named=True)}
    assert stable["planted"] is None and stable["random,seed=0"] < 0.2  # there is no other seed of the planted one
    assert "coalition F1" in shown.out and "0.000 (1.000)" in shown.out


def test_what_was_not_measured_is_named_with_its_reason(cli, folder):
    _, measures, directory, _ = benched(cli, folder, "without=[coalitions,stability_cosine,stability_correlation]")
    reasons = dict(measures.filter(pl.col("value").is_null(), member="planted").select("measure", "reason").iter_rows())
    assert (
        "coalitions" not in measures["measure"] and reasons["monosemanticity"] == "needs embeddings= or vit@embedder="
    )
    assert reasons["image_probes"] == "has fewer than 100 latents, so that its area is of another range"
    assert reasons["probe_map"] == "needs a recording with labels of patches"
    assert "no latent has a valid map" in measures.filter(measure="morans_i")["reason"][0]  # 2 x 2 patches
    page = (directory / "bench.html").read_text()
    assert "Not measured: " in page and "needs embeddings= or vit@embedder=" in page and "coalition F1" not in page


def test_json_has_the_layout_of_visaebench_and_tables_are_whole(cli, folder):
    results, _, directory, _ = benched(cli, folder)
    layout, every = (json.loads((directory / f"{name}.json").read_text()) for name in ("bench", "measures"))
    assert [*layout] == [*every] == results["member"].to_list()
    one = layout["planted"]
    assert [*one] == [*DIMENSIONS]
    assert "coalitions" not in one["concept_detection"]
    entry = one["reconstruction"]["downstream_preservation"]
    assert entry["value"] == 1 and entry["higher_is_better"] is True and entry["metadata"]["null"] < 1
    assert {*every["planted"]} == {*MEASURES} and every["planted"]["monosemanticity"]["reason"].startswith("needs ")
    coalitions = results.row(0, named=True)["coalitions"]
    assert every["planted"]["coalitions"]["value"] == coalitions and "better" in every["planted"]["l0"]
    concepts = pl.read_parquet(directory / "concepts.parquet")
    assert {*concepts["concept"]} == {"lion", "lynx", "wolf", "fox"} and len(concepts) == 4 * 3
    latents = pl.read_parquet(directory / "latents.parquet")
    evaluated = saev.evaluate(str(folder / "run"), str(folder / "data"), saev.EvaluateSettings(examples="all"))
    for name in ("nmse", "l0", "dead", "dense_above_0.1", "coherence"):
        np.testing.assert_allclose(
            results[name].to_numpy(), evaluated.results[name].to_numpy(), atol=1e-6, err_msg=name
        )
    assert (results["l0_low"] <= results["l0"]).all() and (results["l0"] <= results["l0_high"]).all()
    assert len(latents) == 3 * D and {"morans_i", "stability_cosine"} <= {*latents.columns}
    assert cli("doctor", str(directory)).code == 0
    again, _, _, _ = benched(cli, folder)
    assert again.equals(results)


def test_masks_give_probes_and_made_pairs_are_recorded(cli, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("images", "annotations"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(tmp_path / f"set/images/{i:02}.png")
        mask = np.full((32, 32), 2, np.uint8)
        mask[: 8 * (1 + i % 3)] = 1
        mask[-8:, -8:] = 3
        Image.fromarray(mask).save(tmp_path / f"set/annotations/{i:02}.png")
    pictures = saev.images.SegmentationFolder(root=str(tmp_path / "set"))
    vit = saev.vits.MicroVit(img_size=32, patch_size=8, depth=4, d_model=32, seed=0, name="micro")
    store = saev.record(pictures, vit, 1, root=tmp_path / "recordings", progress=False)
    site = {
        "layer": 1,
        "token_roles": "patches",
        "dataset": store.name,
        "vit": store.manifest.meaning["vit"],
        "hook": "resid_post",
    }
    save(tmp_path / "run", "random", random_directions(0), site)
    of = (
        "images=segmentation",
        f"images.root={tmp_path / 'set'}",
        "vit=micro",
        "pairs=painted_over",
        "splice=true",
        "ignore_labels=[2]",
    )
    shown = cli("bench", str(tmp_path / "run"), f"dataset={store.location.root}", *FAST[:-1], *of)
    assert shown.code == 0, shown.text
    directory = Path(next(line for line in shown.out.splitlines() if line.startswith("page:")).split(None, 1)[1]).parent
    row = pl.read_parquet(directory / "results.parquet").row(0, named=True)
    assert (
        row["probe_map"] is not None
        and row["probe_map_null"] is not None
        and row["splice_recovered_patches"] is not None
    )
    for name in ("probe_map", "probe_r", "probe_coverage", "splice_recovered_patches", "dead"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"], name
        assert MEASURES[name].bounds[0] <= row[f"{name}_low"] and row[f"{name}_high"] <= MEASURES[name].bounds[1], name
    assert row["probe_map_low"] < row["probe_map"] < row["probe_map_high"]
    assert 0 <= row["paired_images"] <= 1 and row["paired_images_n"] > 10
    assert {*pl.read_parquet(directory / "attributes.parquet")["attribute"]} == {"1", "3"}
    assert (directory / "pairs" / "pairs.csv").is_file() and row[
        "coalitions"
    ] is None  # both classes are on every image


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("against=nothing",), "against=nothing is no row's name and no kind of one"),
        (("against=n",), "are meant, and differ by more than the seed"),
        (("labels=anmal",), "labels=anmal: data has the columns"),
        (("without=[colour]",), "without=colour is no measure: choose among nmse, fvu"),
        (("hierarchy=tree.csv", "labels=null"), "hierarchy=tree.csv needs the classes of the images"),
        (("pairs=nothing.csv",), "nothing.csv"),
        (("pairs=recoloured",), "images=birds does not have 96 of 96 images of data"),
        (("embeddings=nothing.npy",), "embeddings=nothing.npy"),
        (("labels=null", "transfer=[elsewhere]"), "transfer= needs the classes of images"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_encoded(cli, folder, arguments, said):
    shown = cli("bench", str(folder / "run"), f"dataset={folder / 'data'}", *FAST, *arguments)
    assert shown.code == 1 and said in shown.err and "Encoding" not in shown.text, shown.text


def test_errors_name_the_options_of_this_verb(cli, folder):
    for arguments, said in (
        (("vit@embedder=timm", "embedder.arch=no_model"), "embedder.arch=no_model"),
        ((f"transfer=[{folder / 'absent'}]",), "transfer="),
        ((f"transfer=[{folder / 'data'}]",), "transfer=data: is measured itself, or given twice"),
        ((f"transfer=[{folder / 'other'},{folder / 'other'}]",), "transfer=other: is measured itself, or given twice"),
        (("splice=true", "images=folder", f"images.root={folder / 'nothing'}"), f"images.root={folder / 'nothing'}"),
        (
            ("splice=true", "images=folder", f"images.root={folder / 'photos'}"),
            "images=photos does not have 96 of 96 images of data",
        ),
    ):
        (folder / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / "photos" / "a.png")
        shown = cli("bench", str(folder / "run"), f"dataset={folder / 'data'}", *FAST, *arguments)
        assert shown.code == 1 and said in shown.err and "vit." not in shown.err, shown.text
        assert "dataset=" not in shown.err and "Encoding" not in shown.text


def test_options_that_no_measure_reads_are_named(cli, folder):
    options = (
        "pairs_per_class=20",
        "ignore_labels=[1]",
        "splice_images=10",
        "vit.img_size=56",
        "n_coalition=2",
        "threshold=0.1",
    )
    _, _, _, shown = benched(cli, folder, *options, "without=[coalitions]", "images.name=x", "against=planted")
    said = " ".join(shown.text.split())
    assert "no effect on what is measured here: " in said
    named = said.partition("no effect on what is measured here: ")[2]
    assert named.startswith("pairs_per_class=20, ignore_labels=[1], splice_images=10, n_coalition=2, threshold=0.1 ")
    assert "images.name=x" in said and "vit.img_size=56" in said and "no effect without splice=true" in said


@pytest.mark.parametrize("labels", [None, "a column"])
@pytest.mark.parametrize("without", [(), ("coalitions",)])
def test_each_option_has_an_effect_or_is_named(labels, without):
    settings = BenchSettings(labels=labels, without=without, n_coalition=2, min_images=9, permutations=3, against="a")
    idle = without_effect(settings, Given(labels=labels is not None))
    assert ("n_coalition=2" in idle) == (labels is None or bool(without))
    assert ("permutations=3" in idle) == (labels is None)  # k-sparse probes read it too
    assert "min_images=9" not in idle and "against=a" not in idle
    always = {"without", "tokens", "examples", "bootstrap", "batch_size", "device"}
    every = {field.name for field in dataclasses.fields(BenchSettings)} - always
    changed = {"pairs": "a.csv", "hierarchy": "a.csv", "labels": "c", "embeddings": "a.npy", "ignore_labels": (1,)}
    for name in every:
        value = changed.get(name, {"against": "a", "threshold": 0.5}.get(name, 11))
        one = BenchSettings(**{"labels": "c", "bootstrap": 0, "without": tuple(MEASURES), name: value})
        named = without_effect(one, Given(others=False))
        assert any(text.startswith(f"{name}=") for text in named), name


def test_labels_may_be_a_csv_of_image_and_class(cli, folder):
    store = saev.ActivationStore(folder / "data")
    table = store.examples.select("path", "animal")
    table.write_csv(folder / "classes.csv")
    table.with_columns(
        (pl.col("animal") == name).cast(int).alias(name) for name in ("lion", "lynx", "wolf", "fox")
    ).drop("animal").write_csv(folder / "columns.csv")
    tables = [
        benched(cli, folder, labels, "without=[morans_i]")[0].drop("dataset")
        for labels in ("labels=animal", f"labels={folder / 'classes.csv'}", f"labels={folder / 'columns.csv'}")
    ]
    assert tables[1].equals(tables[0])
    for name in ("preservation", "coalitions"):  # classes stand in another order
        assert tables[2][name].to_list() == pytest.approx(tables[0][name].to_list(), abs=0.05)


def test_dictionaries_of_other_tokens_are_compared_with_a_warning(folder, caplog):
    save(folder / "patches", "all", identity(), {"layer": 4, "token_roles": "all", "dataset": "data"})
    bench(
        [str(folder / "run"), str(folder / "patches")], folder / "data",
        BenchSettings(examples="all", bootstrap=0, permutations=0, without=STABLE),
    )  # fmt: skip
    assert "measured on different tokens" in caplog.text and "tokens=all: all" in caplog.text


def test_dictionaries_of_other_images_are_not_compared(folder):
    given = [*saev.find_dictionaries(folder / "run" / "saes" / "planted")]
    save(folder / "two", "other", identity(), {"layer": 4, "token_roles": "patches", "dataset": "other"})
    with pytest.raises(ValueError, match="96 images of data and other on 90 others"):
        bench([*given, str(folder / "two")], None, BenchSettings(examples="all"), activations=folder)
