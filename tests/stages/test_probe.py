"""saev probe: rows of classes and dictionaries from the command line; codes from disk, nulls, labels of images, and refusals."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from training.probes import D_MODEL, N_IMAGES, dictionary, image, record_classes

import saev
from saev.baselines.kmeans import KMeans
from saev.nn import Normaliser
from saev.shards.split import split_images
from saev.stages import label_passes

FAST = ("bootstrap=50", "device=cpu", "batch_size=100")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A recording with three classes, and three dictionaries: untrained codes, the classes' means, one-hot means."""
    root = tmp_path_factory.mktemp("probe")
    record_classes(root / "data")
    means = torch.from_numpy(np.random.default_rng(99).normal(size=(4, D_MODEL))).float()[:3]
    normaliser = Normaliser(torch.zeros(D_MODEL), torch.ones(()))
    saev.save_dictionary(dictionary(), root / "saes" / "untrained")
    saev.save_dictionary(KMeans(normaliser, means, "inverse"), root / "saes" / "means")
    saev.save_dictionary(KMeans(normaliser, means), root / "saes" / "nearest")
    return root


def probed(cli, place, *arguments):
    shown = cli("probe", str(place), f"dataset={place / 'data'}", "layer=1", *FAST, *arguments)
    assert shown.code == 0, shown.text
    written = dict(line.split(None, 1) for line in shown.out.splitlines() if line.startswith(("classes:", "results:")))
    return pl.read_parquet(written["classes:"]), pl.read_parquet(written["results:"]), shown


def test_latents_that_stand_for_classes_are_found_and_permuted_labels_are_not(cli, place):
    classes, results, shown = probed(cli, place)
    true = classes.filter(pl.col("labels") == "true")
    means = true.filter(pl.col("member") == "means")
    assert means["class"].to_list() == ["sky", "sea", "sun"] and means["latent"].to_list()[:2] == [0, 1]
    assert (
        means["sign"].to_list()[:2] == [1, 1] and (means["ap_low"] <= means["ap"]).all() and (means["r"] > 0.02).all()
    )
    by = {(row["member"], row["labels"]): row for row in results.iter_rows(named=True)}
    assert len(by) == 6
    for member in ("means", "nearest"):
        assert by[member, "true"]["map"] > 1.3 * by[member, "permuted"]["map"]
    assert by["means", "permuted"]["r"] < 0.02 < by["means", "true"]["r"]
    assert by["means", "true"]["map"] == pytest.approx(means["ap"].mean()) and by["means", "true"]["n_classes"] == 3
    assert "means (permuted labels)" in shown.out and "mAP" in shown.out
    examples = [e for e in range(N_IMAGES) if e in split_images(np.full(N_IMAGES, 16), 0.3)[1]]
    n_val = np.concatenate([image(e)[1] for e in examples])
    assert means["n_val"].to_list() == [int((n_val == c).sum()) for c in range(3)]


def test_codes_on_disk_give_the_same_rows(cli, place, tmp_path):
    live, _, _ = probed(cli, place, "nulls=[]")
    shown = cli(
        "encode", str(place), f"dataset={place / 'data'}", "layer=1", "latent_topk=all", "codes.dtype=float32",
        f"out={tmp_path / 'codes'}", "device=cpu",
    )  # fmt: skip
    assert shown.code == 0, shown.text
    stored = [line for line in shown.out.splitlines() if Path(line).is_dir()]
    shown = cli("probe", *stored, f"dataset={place / 'data'}", "nulls=[]", *FAST)
    assert shown.code == 0, shown.text
    path = next(line.split(None, 1)[1] for line in shown.out.splitlines() if line.startswith("classes:"))
    again = pl.read_parquet(path)
    numbers = ["latent", "ce", "ap", "f1", "r_low", "n_train"]
    for name in numbers:
        one, other = (
            table.sort("member", "class")[name].to_numpy()
            for table in (live, again.with_columns(pl.col("member").str.replace(r"^data-(.*)-.{8}$", "$1")))
        )
        np.testing.assert_allclose(one, other, rtol=1e-5, err_msg=name)


def test_what_was_stopped_goes_on_and_ends_alike(cli, place, tmp_path, monkeypatch):
    whole, _, _ = probed(cli, place)
    walk = label_passes.walk

    def stopped(splits, sources, what, done):
        for i, each in enumerate(walk(splits, sources, what, done)):
            if i == 5:
                raise KeyboardInterrupt
            yield each

    monkeypatch.setattr(label_passes, "walk", stopped)
    run = f"hydra.run.dir={tmp_path / 'run'}"
    arguments = (str(place), f"dataset={place / 'data'}", "layer=1", *FAST, run, "save_every_s=0")
    assert cli("probe", *arguments).code == 130
    assert (tmp_path / "run" / "statistics.pt").is_file()
    monkeypatch.setattr(label_passes, "walk", walk)
    refused = cli("probe", *arguments, "val_share=0.4")
    assert refused.code != 0 and "belongs to other settings" in refused.text
    shown = cli("probe", *arguments)
    assert shown.code == 0 and "going on after 5 batches" in shown.text, shown.text
    assert pl.read_parquet(tmp_path / "run" / "classes.parquet").equals(whole)
    assert not (tmp_path / "run" / "statistics.pt").exists()


def test_all_pairs_are_written_when_asked_for(cli, place, tmp_path):
    run = tmp_path / "run"
    classes, _, _ = probed(cli, place, "pairs=true", "nulls=[]", f"hydra.run.dir={run}")
    pairs = pl.read_parquet(run / "pairs" / "means.parquet")
    assert len(pairs) == 9 and pairs["class"].to_list() == ["sky", "sea", "sun"] * 3
    best = classes.filter((pl.col("member") == "means") & (pl.col("sign") == 1)).join(
        pairs, on=["latent", "class"], suffix="_pair"
    )
    np.testing.assert_allclose(best["train_ce"], best["train_ce_pair"], rtol=1e-6)
    np.testing.assert_allclose(best["ap"], best["ap_pair"], atol=5e-3)


def test_unlabelled_tokens_count_as_class_0_as_saev_has_it(cli, place):
    strict, _, _ = probed(cli, place, "nulls=[]", "bootstrap=0")
    compat, _, _ = probed(cli, place, "nulls=[]", "bootstrap=0", "compat=saev")
    n = {name: table["n_train"].sum() for name, table in (("strict", strict), ("compat", compat))}
    assert n["compat"] == 3 * 28 * 16 > n["strict"]  # every token, of three dictionaries
    assert "ap_low" not in strict.columns


def test_labels_of_images_from_a_table_are_told_to_their_tokens(cli, place, tmp_path):
    file = tmp_path / "traits.csv"
    file.write_text("image,even,late\n" + "".join(f"{e}.jpg,{1 - e % 2},{int(e > 20)}\n" for e in range(N_IMAGES)))
    classes, _, _ = probed(cli, place, f"labels={file}", "nulls=[]", "bootstrap=0")
    assert classes["class"].unique().sort().to_list() == ["even", "late"]
    even = classes.filter((pl.col("class") == "even") & (pl.col("member") == "means"))
    assert even["n_train"].item() + even["n_val"].item() == 20 * 16
    by_column, _, _ = probed(cli, place, "labels=key", "nulls=[]", "bootstrap=0")
    assert by_column["status"].to_list().count("unselected") == 3 * 12  # images of validation alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=null"], "dataset is not given"),
        (["compat=old"], "compat=old: choose strict or saev"),
        (["nulls=[random]"], "nulls=['random']: choose of ['permuted']"),
        (["labels=species"], "labels=species: data has no such column"),
        (["labels=key", "classes=[1]"], "classes=[1] is for labels=patches"),
        (["val_share=1"], "val_share=1: give a share between 0 and 1"),
        (["bootstrap=-1"], "bootstrap=-1"),
        (["top=0"], "top=0: give at least 1"),
        (["latent_topk=0"], "latent_topk=0"),
        (["layer=7"], "layer=7"),
    ],
)
def test_wrong_settings_are_refused_with_a_remedy(cli, place, arguments, message):
    shown = cli("probe", str(place), f"dataset={place / 'data'}", "layer=1", *FAST, *arguments)
    assert shown.code != 0 and message in shown.text, shown.text


def test_a_recording_without_labels_is_refused(cli, place, tiny):
    shown = cli("probe", str(place / "saes" / "means"), f"dataset={tiny}", "layer=1", *FAST)
    assert shown.code != 0 and ("has no patch labels" in shown.text or "d_model" in shown.text), shown.text


def test_the_supervised_bound_stands_beside_the_dictionaries(cli, place):
    own = [
        "linear_probe.max_epochs=2",
        "linear_probe.lrs=[0.1]",
        "linear_probe.weight_decays=[0.01]",
        "linear_probe.batch_size=48",
    ]
    _, results, _ = probed(cli, place, "linear=true", "nulls=[]", *own, "linear_probe.trainer.accelerator=cpu")
    bound = results.filter(pl.col("member") == "linear probe on raw")
    assert len(bound) == 1 and 0 < bound["map"].item() <= 1 and json.loads(json.dumps(bound["n_classes"].item())) == 3
