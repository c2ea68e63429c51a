"""saev traits: tables and a page from the command line; what is planted is found, and refusals."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from trait_evaluation.sources.recorded import recorded

import saev
from saev.baselines.kmeans import KMeansDictionary
from saev.nn import Normaliser
from saev.trait_evaluation.settings import TraitsSettings
from saev.trait_evaluation.sources import Columns

N = 60
FAST = (
    "bootstrap=50", "device=cpu", "batch_size=100", "n_train=[20]", "n_prototypes=[4]", "seeds=[0,1]", "several=[2]",
    "ridges=[0.1]", "baseline_size=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """60 images of two traits: direction 0 is in images that are red, nothing is in those that are round; and a dictionary."""
    root = tmp_path_factory.mktemp("traits")
    rng = np.random.default_rng(0)
    red, round_ = (rng.random(N) < 0.4).tolist(), (rng.random(N) < 0.3).tolist()
    rows = [{"red": int(red[i]), "round": int(round_[i]), "split": "train" if i < 40 else "test"} for i in range(N)]
    store = recorded(root / "data", rows)
    planted = np.mean([store.read(4, i, "patches").mean(0) for i in range(N) if red[i]], 0)
    means = torch.tensor(np.stack([planted, *rng.normal(size=(7, 8))]), dtype=torch.float32)
    saev.save_dictionary(
        KMeansDictionary(Normaliser(torch.zeros(8), torch.ones(())), means, "inverse"), root / "saes" / "means",
        provenance={"layer": 4, "token_roles": "patches"},
    )  # fmt: skip
    return root


def evaluated(cli, place, *arguments, run=None):
    shown = cli("traits", str(run or place), f"train={place / 'data'}", *FAST, *arguments)
    assert shown.code == 0, shown.text
    files = dict(
        line.split(None, 1) for line in shown.out.splitlines() if line.startswith(("page:", "results:", "traits:"))
    )
    return pl.read_parquet(files["traits:"]), pl.read_csv(files["results:"]), Path(files["page:"]).read_text(), shown


COLUMNS = ("traits=columns", "traits.columns=[red,round]")


def test_tables_have_a_row_for_every_cell_and_key_and_the_page_every_trait(cli, place):
    traits, summary, page, shown = evaluated(cli, place, *COLUMNS, "split=split")
    assert traits["key"].n_unique() == len(traits)
    single = traits.filter((pl.col("n_latents") == 1) & (pl.col("labels") == "true"))
    assert {*single["method"]} == {"means", "random_vectors", "channels"}
    means = single.filter(pl.col("method") == "means")
    assert len(means) == 2 * 2 * 2 * 2  # seeds, n_train, n_prototypes, traits
    assert {*means["n_train"]} == {20, 40} and {*means["n_prototypes"]} == {4, 8} and {*means["n_test"]} == {20}
    assert means["d_sae"].unique().to_list() == [8] and means["dictionary"][0].endswith("means")
    known = means.filter(pl.col("ap_low").is_not_null())
    assert ((known["ap_low"] <= known["test_ap"]) & (known["test_ap"] <= known["ap_high"])).all()
    full = summary.filter((pl.col("n_train") == 40) & (pl.col("n_latents") == 1))
    compared = full.filter((pl.col("method") == "means") & (pl.col("n_prototypes") == 8))
    assert compared["diff"][0] == pytest.approx(
        compared["map"][0]
        - full.filter((pl.col("method") == "random_vectors") & (pl.col("n_prototypes") == 8))["map"][0]
    )
    assert compared["diff_low"][0] < compared["diff"][0] < compared["diff_high"][0]
    assert full["null_map"].count() == len(full) and summary["labels"].n_unique() == 1
    assert "red" in page and "round" in page and "random_vectors" in shown.out and "supervised" in page
    assert {"supervised", "means", "channels"} <= {*summary["method"]}
    run = next(line.split(None, 1)[1] for line in shown.out.splitlines() if line.startswith("page:"))
    checked = cli("doctor", str(Path(run).parent))
    assert checked.code == 0 and "finished: " in checked.out, checked.text


@pytest.mark.slow
def test_names_of_latents_are_in_the_captions_of_galleries(cli, place, tmp_path):
    shutil.copytree(place / "saes", tmp_path / "run" / "saes")
    (tmp_path / "photos").mkdir()
    for i in range(N):
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / f"{i}.jpg")
    for latent in range(8):
        saev.annotate(tmp_path / "run" / "saes" / "means", latent, f"name <{latent}>")
    arguments = ("split=split", "images=folder", f"images.root={tmp_path / 'photos'}", "channels=false", "baselines=[]")
    traits, _, page, _ = evaluated(cli, place, *COLUMNS, *arguments, run=tmp_path / "run")
    assert "name" not in traits.columns and re.search(r"latent (\d) \(name &lt;\1&gt;\) of means", page)
    (tmp_path / "run" / "saes" / "means" / "annotations.csv").write_text("latent\n")
    refused = cli("traits", str(tmp_path / "run"), f"train={place / 'data'}", *FAST, *COLUMNS)
    assert refused.code == 1 and "annotations.csv: without run" in refused.err


@pytest.mark.slow
def test_the_same_command_gives_the_same_rows(cli, place):
    first, second = (
        evaluated(cli, place, *COLUMNS, "channels=false", "supervised=false", "nulls=[]", "several=[]")[0]
        for _ in range(2)
    )
    assert first.drop("dictionary").equals(second.drop("dictionary"))  # baselines are in the directory of each


def test_compat_and_a_users_scorer(cli, place):
    arguments = ("compat=saev", "baselines=[]", "channels=false", "supervised=false", "several=[]", "nulls=[]")
    scorer = "+scorers.first={_target_: saev.scoring.scorers.Activations, d_model: 8}"
    traits, summary, _, _ = evaluated(cli, place, *COLUMNS, *arguments, scorer)
    assert {*summary["method"]} == {"means", "first"} and traits["protocol"].unique().to_list() == ["saev"]
    assert traits.filter(pl.col("method") == "first")["kind"].unique().to_list() == ["Activations"]
    assert pl.Null not in traits.dtypes  # so that tables of several jobs can be joined


@pytest.mark.slow
def test_all_baselines_are_fitted_to_the_training_images(cli, place):
    arguments = ("supervised=false", "several=[]", "nulls=[]", "bootstrap=0", "pool=top3", "split=split")
    traits, summary, _, _ = evaluated(
        cli, place, *COLUMNS, *arguments, "baselines=[random_vectors,kmeans,pca,semi_nmf,untrained]"
    )
    assert {*traits["kind"]} >= {"random_vectors", "kmeans", "pca", "semi_nmf", "untrained", "channels"}
    sizes = dict(traits.group_by("kind").agg(pl.col("n_prototypes").max()).iter_rows())
    assert sizes["pca"] == sizes["channels"] == 16 and sizes["kmeans"] == 8  # of 8 channels, both signs
    assert "map_low" not in summary.columns or summary["map_low"].null_count() == len(summary)


@pytest.mark.slow
def test_tokens_are_units_with_masks(cli, tmp_path):
    labels = [[1, 2, 2, 1] if i % 2 else [2, 2, 1, 2] for i in range(30)]
    recorded(tmp_path / "masks", [{} for _ in labels], labels, {1: "head", 2: "fin"})
    shown = cli(
        "traits",
        f"train={tmp_path / 'masks'}",
        "layer=4",
        "traits=masks",
        *FAST,
        "nulls=[]",
        "several=[]",
        "n_prototypes=[]",
    )
    assert shown.code == 0, shown.text
    assert "random_vectors" in shown.out and "channels" in shown.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("layer=4",), "traits is not given"),
        (("layer=4", "traits=columns", "traits.columns=[rde]"), "did you mean red"),
        (("layer=4", *COLUMNS, "pool=most"), "pool=most: choose max, mean or top3"),
        (("layer=4", *COLUMNS, "seeds=[]"), "seeds=[]"),
        (("layer=9", *COLUMNS), "layer"),
        (COLUMNS, "no layer is named"),
        (("layer=4", *COLUMNS, "baselines=[]", "channels=false", "supervised=false"), "no method is named"),
        (("layer=4", *COLUMNS, "split=spilt"), "did you mean split?"),
        (("layer=4", *COLUMNS, "against=random_vector"), "against=random_vector is no method's name or kind. Close: random_vectors"),
        (("layer=4", *COLUMNS, "+scorers.channels={_target_: saev.scoring.scorers.Activations, d_model: 8}"),
         "scorers.channels: another method has this name"),
        (("layer=4", *COLUMNS, "images=folder", "images.root=/nothing"), "images.root=/nothing"),
        (("layer=4", *COLUMNS, "baseline_size=1000"), "baseline_size=1000: there are only 60 training tokens"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(cli, place, arguments, said):
    shown = cli("traits", f"train={place / 'data'}", *arguments, "device=cpu")
    last = shown.err.strip().splitlines()[-1]
    assert shown.code == 1 and last.startswith("error: ") and said in last, shown.text


def test_a_missing_directory_is_named(cli, place):
    shown = cli("traits", str(place / "nothing"), f"train={place / 'data'}", *COLUMNS)
    assert shown.code == 1 and "nothing" in shown.err and "is not there" in shown.err


@pytest.mark.slow
def test_a_page_that_cannot_be_written_does_not_cost_the_tables(cli, place, monkeypatch):
    monkeypatch.setattr("saev.stages.traits.write_page", lambda *_: 1 / 0)
    shown = cli(
        "traits", str(place), f"train={place / 'data'}", *FAST, *COLUMNS, "channels=false", "nulls=[]", "several=[]"
    )
    assert shown.code == 0 and "the tables are complete" in shown.text and "results.csv" in shown.out


def test_rows_have_the_same_keys_whatever_a_dictionary_is_called_and_other_keys_for_other_units(place):
    settings = TraitsSettings(
        baselines=(), channels=False, supervised=False, several=(), nulls=(), bootstrap=0, n_train=(), n_prototypes=(), seeds=(0,)
    )  # fmt: skip
    columns, (one,) = Columns(("red", "round")), saev.find_dictionaries(place)

    def rows(dictionaries, **changed):
        return saev.traits(
            dictionaries, place / "data", columns, dataclasses.replace(settings, **changed), layers=[4]
        ).traits

    first, renamed = rows(one), rows(dataclasses.replace(one, name="another"))
    assert first["key"].to_list() == renamed["key"].to_list() and len(first) == 2
    assert not {*first["key"]} & {*rows(one, split="split")["key"]} and not {*first["key"]} & {
        *rows(one, tokens="all")["key"]
    }
    in_memory = rows({"memory": one.load("cpu")})
    assert in_memory["test_ap"].to_list() == pytest.approx(first["test_ap"].to_list(), abs=0.02)


@pytest.mark.slow
def test_the_published_protocol_keeps_traits_without_a_positive(tmp_path, cli):
    rows = [{"red": i % 2, "never": 0, "split": "train" if i < 20 else "test"} for i in range(40)]
    recorded(tmp_path / "data", rows)
    shown = cli(
        "traits", f"train={tmp_path / 'data'}", "layer=4", "split=split", "traits=columns", "traits.columns=[red,never]", *FAST,
        "compat=saev", "nulls=[]", "baselines=[]", "device=cpu",
    )  # fmt: skip
    assert shown.code == 0, shown.text
    path = next(line.split(None, 1)[1] for line in shown.out.splitlines() if line.startswith("traits:"))
    traits = pl.read_parquet(path).filter(pl.col("trait") == "never")
    assert traits.filter(pl.col("method") == "channels")["test_ap"].to_list()[0] == 0


def test_logistic_regressions_alone_have_a_page(cli, place):
    shown = cli("traits", f"train={place / 'data'}", "layer=4", *COLUMNS, *FAST, "baselines=[]", "channels=false")
    assert shown.code == 0 and "supervised" in shown.out and "page:" in shown.out, shown.text


def test_any_method_can_be_the_one_that_others_are_compared_with(cli, place):
    _, summary, _, _ = evaluated(
        cli, place, *COLUMNS, "split=split", "against=means", "permutations=99", "supervised=false"
    )
    full = summary.filter((pl.col("n_train") == 40) & (pl.col("n_latents") == 1) & (pl.col("n_prototypes") == 8))
    by_method = {row["method"]: row for row in full.iter_rows(named=True)}
    random, means = by_method["random_vectors"], by_method["means"]
    assert random["diff"] == pytest.approx(random["map"] - means["map"]) and 0.01 <= random["p"] <= 1
    assert means["diff"] is None and means["p"] is None
