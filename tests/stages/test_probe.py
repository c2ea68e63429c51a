"""saev probe: rows of classes and dictionaries from the command line; codes from disk, nulls, labels of images, and refusals."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf
from training.probes import D_MODEL, N_IMAGES, dictionary, image, record_classes

import saev
from saev.baselines.kmeans import KMeansDictionary
from saev.codes import CodeStore
from saev.config.build import build
from saev.nn import Normaliser
from saev.probing import ProbeSettings, SparseSettings, passes, pipeline, probe
from saev.probing.inputs import check_codes, stamps
from saev.probing.permuted import PermutedLabels
from saev.probing.splits import labels_of
from saev.saved import find_dictionaries
from saev.shards.split import split_images
from saev.training.linear.settings import LinearProbeSettings

FAST = ("bootstrap=50", "device=cpu", "batch_size=100")
SPARSE = ("sparse.levels=[image]", "sparse.k=[1]", "sparse.ridges=[1.0]", "sparse.pooling=[mean]")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A recording with three classes, and three dictionaries: untrained codes, the classes' means, one-hot means."""
    root = tmp_path_factory.mktemp("probe")
    record_classes(root / "data")
    means = torch.from_numpy(np.random.default_rng(99).normal(size=(4, D_MODEL))).float()[:3]
    normaliser = Normaliser(torch.zeros(D_MODEL), torch.ones(()))
    saev.save_dictionary(dictionary(), root / "saes" / "untrained")
    saev.save_dictionary(KMeansDictionary(normaliser, means, "inverse"), root / "saes" / "means")
    saev.save_dictionary(KMeansDictionary(normaliser, means), root / "saes" / "nearest")
    return root


def probed(cli, place, *arguments, run=None):
    shown = cli("probe", str(run or place), f"dataset={place / 'data'}", "layer=1", *FAST, *arguments)
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
    assert classes.columns[classes.columns.index("latent") + 1] == "name" and classes["name"].null_count() == len(
        classes
    )
    assert "permuted" in shown.out and "mAP" in shown.out and "sky" in shown.out and "cross-entropy" not in shown.out
    assert "Probes of all latents" in shown.err and "100 %" in shown.err
    assert len(shown.out.splitlines()) < 20
    examples = [e for e in range(N_IMAGES) if e in split_images(np.full(N_IMAGES, 16), 0.3)[1]]
    n_val = np.concatenate([image(e)[1] for e in examples])
    assert means["n_tokens_val"].to_list() == [int((n_val == c).sum()) for c in range(3)]


def test_seeds_are_summed_up_and_too_few_permutations_named(cli, place, tmp_path):
    for seed in (0, 1):
        means = torch.from_numpy(np.random.default_rng(99 + seed).normal(size=(4, D_MODEL))).float()[:3]
        one = KMeansDictionary(Normaliser(torch.zeros(D_MODEL), torch.ones(())), means, "inverse")
        saev.save_dictionary(
            one, tmp_path / "saes" / f"means{seed}", hyperparameters={"baseline": "kmeans", "seed": seed}
        )
    shutil.copytree(place / "saes" / "untrained", tmp_path / "saes" / "untrained")
    _, results, shown = probed(cli, place, "against=untrained", "permutations=20", run=tmp_path)
    seeds = pl.read_parquet(
        next(line for line in shown.out.splitlines() if line.startswith("seeds:")).split(None, 1)[1]
    )
    both, alone = seeds.rows(named=True)
    maps = results.filter(pl.col("labels") == "true", pl.col("member").str.starts_with("means"))["map"]
    assert both["members"] == "means0, means1" and both["n_seeds"] == 2 and alone["n_seeds"] == 1
    assert both["map"] == pytest.approx(maps.mean()) and both["map_std"] == pytest.approx(maps.std())
    assert both["diff_map"] == pytest.approx(both["map"] - alone["map"])
    assert "p_ap_holm of 3 classes cannot be below .05; permutations=59 can" in shown.text


@pytest.mark.slow
def test_names_of_latents_stand_beside_their_numbers(cli, place, tmp_path):
    shutil.copytree(place / "saes", tmp_path / "run" / "saes")
    for member in ("means", "nearest"):
        saev.annotate(tmp_path / "run" / "saes" / member, 1, "[water]")
    classes, _, shown = probed(cli, place, "nulls=[]", run=tmp_path / "run")
    assert "[water]" in shown.out
    named = classes.filter(pl.col("member") != "untrained")
    assert [name for _, name in named.select("latent", "name").iter_rows()] == [
        "[water]" if i == 1 else None for i in named["latent"]
    ]
    assert classes.filter(pl.col("member") == "untrained")["name"].null_count() == 3


@pytest.mark.slow
def test_codes_on_disk_give_the_same_rows(cli, place, tmp_path):
    live, _, _ = probed(cli, place, "nulls=[]")
    shown = cli(
        "encode", str(place), f"dataset={place / 'data'}", "layer=1", "latent_topk=all", "dtype=float32",
        f"out={tmp_path / 'codes'}", "device=cpu",
    )  # fmt: skip
    assert shown.code == 0, shown.text
    stored = [line.split()[-1] for line in shown.out.splitlines() if line.strip() and Path(line.split()[-1]).is_dir()]
    shown = cli("probe", *stored, f"dataset={place / 'data'}", "nulls=[]", *FAST)
    assert shown.code == 0, shown.text
    path = next(line.split(None, 1)[1] for line in shown.out.splitlines() if line.startswith("classes:"))
    again = pl.read_parquet(path)
    numbers = ["latent", "ce", "ap", "f1", "r_low", "n_tokens_train"]
    for name in numbers:
        one, other = (
            table.sort("member", "class")[name].to_numpy()
            for table in (live, again.with_columns(pl.col("member").str.replace(r"^data-(.*)-.{8}$", "$1")))
        )
        np.testing.assert_allclose(one, other, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_stopped_run_resumes_with_equal_rows(cli, place, tmp_path, monkeypatch):
    whole, _, _ = probed(cli, place)
    batches = passes.batches

    def stopped(*arguments):
        for i, batch in enumerate(batches(*arguments)):
            if i == 5:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(passes, "batches", stopped)
    run = f"hydra.run.dir={tmp_path / 'run'}"
    arguments = (str(place), f"dataset={place / 'data'}", "layer=1", *FAST, run, "save_every_s=0")
    assert cli("probe", *arguments).code == 130
    assert (tmp_path / "run" / "statistics.pt").is_file()
    monkeypatch.setattr(passes, "batches", batches)
    refused = cli("probe", *arguments, "val_fraction=0.4")
    assert refused.code != 0 and "belongs to other settings" in refused.text
    shown = cli("probe", *arguments)
    assert shown.code == 0 and "resuming after 5 batches" in shown.text, shown.text
    assert pl.read_parquet(tmp_path / "run" / "classes.parquet").equals(whole)
    assert not (tmp_path / "run" / "statistics.pt").exists()


@pytest.mark.slow
def test_weights_may_change_when_a_stopped_run_resumes(cli, place, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    arguments = (str(place), f"dataset={place / 'data'}", "layer=1", *FAST, f"hydra.run.dir={tmp_path / 'run'}")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "fit_all", stopped)
        assert cli("probe", *arguments).code == 130
    shown = cli("probe", *arguments, "weights=balanced")
    assert shown.code == 0 and "resuming after" in shown.text, shown.text
    whole, _, _ = probed(cli, place, "weights=balanced")
    assert pl.read_parquet(tmp_path / "run" / "classes.parquet").equals(whole)


@pytest.mark.slow
def test_all_pairs_are_written_when_requested(cli, place, tmp_path):
    run = tmp_path / "run"
    classes, _, _ = probed(cli, place, "pairs=true", "nulls=[]", f"hydra.run.dir={run}")
    pairs = pl.read_parquet(run / "pairs" / "means.parquet")
    assert len(pairs) == 9 and pairs["class"].to_list() == ["sky", "sea", "sun"] * 3
    best = classes.filter((pl.col("member") == "means") & (pl.col("sign") == 1)).join(
        pairs, on=["latent", "class"], suffix="_pair"
    )
    np.testing.assert_allclose(best["train_ce"], best["train_ce_pair"], rtol=1e-6)
    np.testing.assert_allclose(best["ap"], best["ap_pair"], atol=5e-3)


@pytest.mark.slow
def test_balanced_weights_change_cross_entropies_and_nothing_of_the_rankings(cli, place, tmp_path):
    run = tmp_path / "run"
    plain, results, _ = probed(cli, place, "nulls=[]", "bootstrap=0")
    classes, weighted, _ = probed(
        cli, place, "weights=balanced", "pairs=true", "nulls=[permuted]", f"hydra.run.dir={run}"
    )
    assert results["weights"].unique().to_list() == ["none"] and weighted["weights"].unique().to_list() == ["balanced"]
    assert classes["ce_prevalence"].to_numpy() == pytest.approx(np.log(2))
    np.testing.assert_allclose(classes["r"], 1 - classes["ce"].to_numpy() / np.log(2), rtol=1e-9)
    assert (classes["r_low"] < classes["r"]).all() and (classes["r"] < classes["r_high"]).all()
    means = classes.filter((pl.col("member") == "means") & (pl.col("labels") == "true"))
    assert (means["r"] > 0.02).all() and means["latent"].to_list()[:2] == [0, 1]
    both = plain.join(classes.filter(pl.col("labels") == "true"), on=["member", "class", "latent"], suffix="_balanced")
    assert len(both) >= 6
    for name in ("ap", "auroc", "f1", "precision"):
        np.testing.assert_allclose(both[name], both[f"{name}_balanced"], rtol=1e-9)
    pairs = pl.read_parquet(run / "pairs" / "means.parquet")
    best = means.filter(pl.col("sign") == 1).join(pairs, on=["latent", "class"], suffix="_pair")
    np.testing.assert_allclose(best["train_ce"], best["train_ce_pair"], rtol=1e-4)
    np.testing.assert_allclose(best["ce"], best["val_ce"], rtol=1e-3)


@pytest.mark.slow
def test_unlabelled_tokens_count_as_class_0_as_saev_has_it(cli, place):
    strict, _, _ = probed(cli, place, "nulls=[]", "bootstrap=0")
    compat, _, _ = probed(cli, place, "nulls=[]", "bootstrap=0", "compat=saev")
    n = {name: table["n_tokens_train"].sum() for name, table in (("strict", strict), ("compat", compat))}
    assert n["compat"] == 3 * 28 * 16 > n["strict"]  # every token, of three dictionaries
    assert "ap_low" not in strict.columns


@pytest.mark.slow
def test_labels_of_images_are_broadcast_to_their_tokens(cli, place, tmp_path):
    file = tmp_path / "traits.csv"
    file.write_text("image,even,late\n" + "".join(f"{e}.jpg,{1 - e % 2},{int(e > 20)}\n" for e in range(N_IMAGES)))
    classes, _, _ = probed(cli, place, f"labels={file}", "nulls=[]", "bootstrap=0")
    assert classes["class"].unique().sort().to_list() == ["even", "late"]
    even = classes.filter((pl.col("class") == "even") & (pl.col("member") == "means"))
    assert even["n_tokens_train"].item() + even["n_tokens_val"].item() == 20 * 16
    labels_from_column, _, _ = probed(cli, place, "labels=key", "nulls=[]", "bootstrap=0")
    assert labels_from_column["status"].to_list().count("unselected") == 3 * 12  # images of validation alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=null"], "dataset is not given"),
        (["compat=old"], "compat=old: choose strict or saev"),
        (["weights=half"], "weights=half: choose none or balanced"),
        (["nulls=[random]"], "nulls=[random]: choose permuted"),
        (["labels=species"], "labels=species: data has no such column"),
        (["labels=key", "ignore_labels=[1]"], "ignore_labels=[1] is for labels=patches"),
        (["classes=[skye]"], "no class is called 'skye'; did you mean sky or sea?"),
        (["val_fraction=1"], "val_fraction=1.0: must be below 1"),
        (["bootstrap=-1"], "bootstrap=-1: must be at least 0"),
        (["top=0"], "top=0: must be at least 1"),
        (["latent_topk=0"], "latent_topk=0"),
        (["layer=7"], "layer=7"),
        (["nulls=permuted"], "str is not a ListConfig"),
        (["ignore_labels=0"], "int is not a ListConfig"),
        (["bootstrap=1.5"], "'1.5' of type 'float' could not be converted to Integer"),
        (["seed=-1"], "seed=-1: must be at least 0"),
        (["labels=nowhere.csv"], "labels=nowhere.csv is not there"),
        (["classes=[7]"], "no train token (tokens=patches) is of one of the 1 classes"),
        (["compat=saev", "ignore_labels=[0]"], "compat=saev counts tokens without a label as class 0"),
        (["linear=true", "linear_probe.inputs=[nosuch]"], "there is no nosuch"),
        (
            ["linear=true", "linear_probe.batch_size=4096"],
            "linear_probe.batch_size=4096 is more than the 399 training tokens",
        ),
        (["linear=true", "linear_probe.weights=even"], "linear_probe.weights=even: choose none or balanced"),
        (["linear=true", "linear_probe.max_epochs=0"], "linear_probe.max_epochs=0: must be at least 1"),
        (("against=untrained", "bootstrap=0"), "against=untrained with bootstrap=0: differences need resamples"),
    ],
)
def test_wrong_settings_are_refused_with_a_remedy(cli, place, arguments, message):
    shown = cli("probe", str(place), f"dataset={place / 'data'}", "layer=1", *FAST, *arguments)
    assert shown.code != 0 and message in shown.text, shown.text


def test_wrong_settings_are_refused_before_codes_are_read(cli, place):
    shown = cli("probe", str(place), f"dataset={place / 'data'}", f"validation={place / 'data'}", "layer=1", *FAST)
    assert shown.code != 0 and "is the dataset itself" in shown.text and "Reading codes" not in shown.text


@pytest.mark.slow
def test_dead_dictionaries_and_single_classes_have_empty_rows_beside_the_others(cli, place, tmp_path):
    dead = dictionary()
    with torch.no_grad():
        dead.b_enc.fill_(-1e6)
    saev.save_dictionary(dead, tmp_path / "dead")
    classes, results, _ = probed(cli, place, str(tmp_path / "dead"), *SPARSE)
    by = {(row["member"], row["labels"]): row for row in results.iter_rows(named=True)}
    assert by["dead", "true"]["n_classes"] == 0 and by["dead", "true"]["r"] is None
    assert by["means", "true"]["map"] > 0.3
    empty = classes.filter(pl.col("member") == "dead")
    assert empty["status"].unique().to_list() == ["unselected"] and empty["latent"].null_count() == 6
    assert empty.filter(pl.col("labels") == "true")["n_tokens_val"].sum() > 0 and empty["ap_low"].null_count() == 6
    single, _, shown = probed(cli, place, "classes=[sky]", "ignore_labels=[sea,2]", "nulls=[]")
    assert single["status"].to_list() == ["unselected"] * 3 and "no class has a latent" in shown.text


@pytest.mark.slow
def test_what_is_found_is_written_before_what_may_fail(cli, place, tmp_path, monkeypatch):
    def fails(*_):
        raise ValueError("no room")

    monkeypatch.setattr(pipeline, "sparse_probing", fails)
    run = tmp_path / "run"
    shown = cli("probe", str(place), f"dataset={place / 'data'}", "layer=1", *FAST, "nulls=[]", "sparse.levels=[token]",
                f"hydra.run.dir={run}")  # fmt: skip
    assert shown.code != 0 and "no room" in shown.text
    assert len(pl.read_parquet(run / "classes.parquet")) == 9 and len(pl.read_parquet(run / "results.parquet")) == 3


def test_a_checkpoint_is_of_these_weights_and_this_table(place, tmp_path):
    saev.save_dictionary(dictionary(), tmp_path / "a")
    table = tmp_path / "traits.csv"
    table.write_text("image,even\n0.jpg,1\n")
    dictionaries = find_dictionaries([str(tmp_path / "a")])
    before = stamps(dictionaries, [], str(table))
    assert stamps(dictionaries, [], str(table)) == before
    table.write_text("image,even\n0.jpg,0\n")
    changed = stamps(dictionaries, [], str(table))["files"]
    assert {name for name, stamp in changed.items() if stamp != before["files"][name]} == {"table"}
    saev.save_dictionary(dictionary(), tmp_path / "a")
    after = stamps(dictionaries, [], str(table))["files"]
    assert {name for name, stamp in after.items() if stamp != changed[name]} == {
        str(tmp_path / "a" / "dictionary.safetensors")
    }
    in_memory = [find_dictionaries({"a": sae}) for sae in (dictionary(), dictionary(d_sae=64))]
    assert stamps(in_memory[0], [], "patches") != stamps(in_memory[1], [], "patches")


@pytest.mark.slow
def test_settings_that_codes_on_disk_cannot_follow_are_refused(cli, place, tmp_path):
    shown = cli("encode", str(place / "saes" / "nearest"), f"dataset={place / 'data'}", "layer=1", "latent_topk=all",
                f"out={tmp_path / 'codes'}", "device=cpu")  # fmt: skip
    assert shown.code == 0, shown.text
    paths = [line.split()[-1] for line in shown.out.splitlines() if line.strip()]
    stored = next(path for path in paths if Path(path).is_dir())
    for own, message in (
        ("latent_topk=2", "was encoded before: leave latent_topk out"),
        ("validation=/elsewhere", "has codes of one recording: leave validation out"),
    ):
        shown = cli("probe", stored, f"dataset={place / 'data'}", *FAST, own)
        assert shown.code != 0 and message in shown.text, shown.text
    codes = CodeStore(stored)
    codes.manifest = dataclasses.replace(codes.manifest, layer=2)
    with pytest.raises(ValueError, match=r"layer=1: .* has codes of layer 2"):
        check_codes(codes, saev.ActivationStore(place / "data"), ProbeSettings(), None, 1)
    run = tmp_path / "run"
    twice = cli("probe", stored, f"{stored}/", f"dataset={place / 'data'}", *FAST, "nulls=[]", f"hydra.run.dir={run}")
    assert twice.code == 0 and len(pl.read_parquet(run / "results.parquet")) == 1, twice.text


class Numbered:
    """Labels that are the numbers of tokens, of images with 1 + 4 and 1 + 2 of them."""

    exclusive, n_classes, ignored, labelled = True, 5, (), np.ones(2, bool)

    def of(self, example, token):
        return np.asarray(token)

    def counts(self, spans):
        raise NotImplementedError

    def left_out(self, spans):
        raise NotImplementedError


def test_permuted_labels_come_from_another_image_and_from_what_is_looked_at():
    tokens = np.array([5, 3])
    null = PermutedLabels(Numbered(), np.array([0, 1]), tokens, seed=0, start=1)
    assert null.other.tolist() == [1, 0]
    assert null.of(np.zeros(4, int), np.arange(1, 5)).tolist() == [1, 2, 1, 2]  # never 0, the class token
    with pytest.raises(ValueError, match="there is only one: give nulls="):
        PermutedLabels(Numbered(), np.array([1]), tokens, seed=0)


def test_a_recording_without_labels_is_refused(cli, place, tiny):
    shown = cli("probe", str(place / "saes" / "means"), f"dataset={tiny}", "layer=1", *FAST)
    assert shown.code != 0 and ("has no patch labels" in shown.text or "d_model" in shown.text), shown.text
    store = saev.ActivationStore(tiny)
    with pytest.raises(
        ValueError, match=r"has no patch labels: take those of whole images, labels=/path/to/table\.csv"
    ):
        labels_of(ProbeSettings(), (store, store), 1, np.arange(3))


@pytest.mark.slow
def test_the_supervised_bound_stands_beside_the_dictionaries(cli, place, tmp_path):
    own = [
        "linear_probe.max_epochs=2",
        "linear_probe.lrs=[0.1]",
        "linear_probe.weight_decays=[0.01]",
        "linear_probe.inputs=all",
    ]
    run = tmp_path / "run"
    own.append(f"hydra.run.dir={run}")
    _, results, _ = probed(cli, place, "linear=true", "nulls=[]", *own, "linear_probe.trainer.accelerator=cpu")
    names = {row["member"] for row in results.to_dicts() if row["member"].startswith("linear")}
    assert names == {f"linear probe on {name}" for name in ("raw", "untrained", "means", "nearest")}
    bound = results.filter(pl.col("member") == "linear probe on raw")
    rows = json.loads((run / "linear" / "linear.json").read_text())["rows"]
    (row,) = [row for row in rows if row["chosen"] and row["input"] == "raw"]
    assert results["dataset"].to_list() == results["validation"].to_list() == ["data"] * 7 and set(
        results["layer"]
    ) == {1}
    assert 0 < row["map_miou"] <= 1 and row["map_target"] == "patch labels"
    assert len(bound) == 1 and 0 < bound["map"].item() <= 1 and json.loads(json.dumps(bound["n_classes"].item())) == 3


@pytest.mark.slow
def test_the_library_gives_the_rows_of_the_command(cli, place, tmp_path):
    classes, results, _ = probed(cli, place, *SPARSE, f"hydra.run.dir={tmp_path / 'run'}")
    sparse = SparseSettings(levels=("image",), k=(1,), ridges=(1.0,), pooling=("mean",))
    settings = ProbeSettings(bootstrap=50, batch_size=100, sparse=sparse)
    result = probe(place, saev.ActivationStore(place / "data"), settings, layer=1, device="cpu")
    assert result.classes.equals(classes) and result.results.equals(results) and result.directory is None
    assert result.sparse is not None and result.sparse.equals(pl.read_parquet(tmp_path / "run" / "sparse.parquet"))
    means = saev.load(place / "saes" / "means", "cpu")
    alone = probe({"means": means}, place / "data", settings, layer=1, directory=tmp_path / "alone", device="cpu")
    assert alone.classes.equals(classes.filter(pl.col("member") == "means"))
    assert pl.read_parquet(tmp_path / "alone" / "results.parquet").equals(alone.results)
    with pytest.raises(ValueError, match="pairs=true writes a table"):
        probe({"means": means}, place / "data", ProbeSettings(pairs=True), layer=1)


def test_the_yaml_has_the_defaults_of_the_settings():
    cfg = OmegaConf.load(ROOT / "conf" / "probe.yaml")
    assert build(ProbeSettings, cfg) == ProbeSettings()
    assert {*cfg} >= {field.name for field in dataclasses.fields(ProbeSettings)} and {*cfg.sparse} == {
        *vars(SparseSettings())
    }
    linear = OmegaConf.load(ROOT / "conf" / "linear_probe" / "default.yaml")
    assert build(LinearProbeSettings, linear) == LinearProbeSettings() and {*linear} == {*vars(LinearProbeSettings())}


def test_dictionaries_are_compared_with_one_of_them(cli, place):
    classes, results, shown = probed(cli, place, "against=untrained", "permutations=99", "nulls=[]")
    row = results.filter(pl.col("member") == "means").row(0, named=True)
    reference = results.filter(pl.col("member") == "untrained").row(0, named=True)
    assert row["diff_map"] == pytest.approx(row["map"] - reference["map"], abs=1e-9)
    assert row["diff_r"] == pytest.approx(row["r"] - reference["r"], abs=1e-9)
    assert row["diff_map_low"] < row["diff_map"] < row["diff_map_high"] and row["diff_latents"] == "fixed"
    assert 0.01 <= row["p_map"] <= 1 and 0.01 <= row["p_r"] <= 1 and reference["diff_map"] is None
    assert re.search(r"means: mAP (better by|worse by|not separated).*, p .*, against untrained", shown.out)
    of_classes = classes.filter(pl.col("member") == "means")
    assert (of_classes["p_ap_holm"] >= of_classes["p_ap"]).all() and of_classes["diff_ap"].count() == 3


def test_an_unknown_row_to_compare_with_is_an_error(cli, place):
    shown = cli("probe", str(place), f"dataset={place / 'data'}", "layer=1", *FAST, "against=maens")
    assert shown.code != 0 and "against=maens is no row's name" in shown.text and "means" in shown.text
