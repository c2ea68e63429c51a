"""saev evaluate: the numbers of training again, splicing with the recorded images, stability, and each refusal."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from conftest import TINY
from PIL import Image
from recordings import record
from safetensors.torch import save_file
from signing import sign

from saev.evaluation.compared import directions
from saev.metrics.correlation import CodeCorrelation
from saev.metrics.histograms import FREQUENCY_EDGES
from saev.saved import find_dictionaries
from saev.shards import ActivationStore

MICRO = ("vit=micro", "images=folder")


def trained(cli, tmp_path, *arguments) -> Path:
    """A run of two SAEs; its directory."""
    shown = cli("train", "experiment=none", *TINY, "logger=none", *arguments)
    assert shown.code == 0, shown.text
    return next((tmp_path / "outputs" / "train").glob("**/saes")).parent


def evaluated(cli, tmp_path, *arguments, table="results") -> pl.DataFrame:
    shown = cli("evaluate", "device=cpu", *map(str, arguments))
    assert shown.code == 0, shown.text
    return pl.read_parquet(max((tmp_path / "outputs" / "evaluate").glob(f"**/{table}.parquet")))


@pytest.fixture(scope="module")
def kept():
    """Runs that were trained for an earlier test: training takes seconds, copying none."""
    return {}


@pytest.fixture
def run(cli, tiny, tmp_path, tmp_path_factory, kept):
    if "run" not in kept:
        kept["run"] = shutil.copytree(on_tiny(cli, tiny, tmp_path), tmp_path_factory.mktemp("kept") / "run")
        shutil.rmtree(tmp_path / "outputs")
    return shutil.copytree(kept["run"], tmp_path / "run")


def on_tiny(cli, tiny, tmp_path):
    return trained(
        cli, tmp_path, f"dataset={tiny}", "layer=1", "datamodule.val_fraction=0.3",
        'variants=[["sae=topk","k=4"],["sae=relu","sparsity=1e-3","seed=1"]]',
    )  # fmt: skip


def test_a_run_is_evaluated_on_its_own_held_out_images(cli, tiny, tmp_path, run):
    """The same tokens and the same numbers as its last validation, though val_fraction was not the default."""
    table = evaluated(cli, tmp_path, run, f"dataset={tiny}", "batch_size=50")
    before = pl.read_parquet(run / "results.parquet")
    assert table["member"].sort().to_list() == before["member"].sort().to_list()
    together = table.join(before, on="member", suffix="_then")
    assert together["n_tokens"].to_list() == together["n_tokens_then"].to_list() == [12 * 16] * 2
    for key, then in (("nmse", "nmse_then"), ("l0", "l0_then"), ("dead", "dead_then"), ("coherence", "coherence_then")):
        assert together[key].to_list() == pytest.approx(together[then].to_list(), rel=1e-5), key
    assert table["n_images"].to_list() == [12, 12] and {"sae", "k", "lr", "seed"} <= {*table.columns}
    csv = pl.read_csv(next((tmp_path / "outputs").glob("evaluate/**/results.csv")))
    assert "frequency_histogram" not in csv.columns and csv["nmse"].to_list() == pytest.approx(table["nmse"].to_list())


def test_numbers_are_those_of_the_codes(cli, tiny, tmp_path, run):
    found = find_dictionaries([str(run)])[0]
    sae, store = found.load("cpu"), ActivationStore(tiny)
    images = [e for e in range(40) if store.tokens_per_image(1)[e]]
    x = torch.cat([torch.from_numpy(store.read(1, e, "patches").copy()) for e in images])
    codes = sae.encode(x)
    row = evaluated(cli, tmp_path, found.path, f"dataset={tiny}", "examples=all").row(0, named=True)
    assert row["n_tokens"] == len(x) and row["l0"] == pytest.approx(float((codes != 0).sum(1).double().mean()))
    correlation = CodeCorrelation(64)
    correlation.update(codes)
    assert row["correlation"] == pytest.approx(float(correlation.compute()), rel=1e-4)
    assert row["mean_atom_norm"] == pytest.approx(1, abs=1e-5)
    fires = (codes != 0).sum(0)
    assert sum(row["frequency_histogram"]) == int((fires > 0).sum()) and row["dead"] == float(
        (fires == 0).double().mean()
    )
    assert len(row["frequency_histogram"]) == len(FREQUENCY_EDGES) - 1
    assert sum(row["value_histogram"]) == int((codes != 0).sum())


@pytest.mark.slow
def test_stability_compares_every_pair(cli, tiny, tmp_path, run):
    again = shutil.copytree(run, tmp_path / "copy")
    table = evaluated(
        cli, tmp_path, run, again, f"dataset={tiny}", "stability=true", "correlation_latents=0", table="stability"
    )
    assert len(table) == 6 and table["mean_max_a"].is_between(0, 1.000001).all()
    same = table.filter(pl.col("a").str.split("/").list.last() == pl.col("b").str.split("/").list.last())
    assert len(same) == 2 and same["matched"].to_list() == pytest.approx([1, 1], abs=1e-5)
    alone = cli(
        "evaluate", str(find_dictionaries([str(run)])[0].path), f"dataset={tiny}", "stability=true", "device=cpu"
    )
    assert alone.code == 1 and "at least two dictionaries" in alone.err


def test_standardised_atoms_are_compared_as_raw_directions():
    from saev.nn import Normaliser, SparseAutoencoder, TopK

    scale = torch.tensor([1.0, 4.0])
    sae = SparseAutoencoder(2, 3, TopK(1), Normaliser(torch.zeros(2), scale))
    sae.w_dec.data = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    raw = sae.decode(torch.eye(3)) - sae.decode(torch.zeros(3, 3))
    torch.testing.assert_close(directions(sae), raw)


# --- with the backbone


@pytest.fixture
def spliceable(cli, tmp_path, photos):
    """A run on a recording of generated photos with the micro ViT; the photos' folder."""
    return trained(
        cli, tmp_path, *MICRO, f"images.root={photos}", "layer=1", 'variants=[["sae=topk","k=4"],["sae=topk","k=8"]]'
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for i in range(30):
        pixels = np.random.default_rng(i).integers(0, 256, (36, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i:02d}.png")
    return root


@pytest.mark.slow
def test_splice_puts_them_back_into_the_backbone(cli, tmp_path, photos, spliceable):
    torch.manual_seed(0)
    save_file({"weight": torch.randn(5, 32), "bias": torch.zeros(5)}, tmp_path / "head.safetensors")
    table = evaluated(
        cli, tmp_path, spliceable, *MICRO, f"images.root={photos}", "splice=true", "examples=all", "splice_images=9",
        f"head={tmp_path / 'head.safetensors'}", "references=[mean,zero]",
    )  # fmt: skip
    assert table["splice_images"].to_list() == [9, 9]
    for role in ("cls", "patches", "pooled"):
        assert (table[f"splice_error_{role}"] > 0).all() and (table[f"zero_error_{role}"] > 0).all()
        kept = 1 - table[f"splice_error_{role}"] / table[f"mean_error_{role}"]
        assert table[f"splice_recovered_{role}"].to_list() == pytest.approx(kept.to_list())
    assert table["splice_agreement"].is_between(0, 1).all() and (table["splice_kl"] > 0).all()
    assert table["mean_error_cls"].n_unique() == 1  # one reference serves both


@pytest.mark.slow
def test_another_backbone_is_refused_and_other_images_are_missed(cli, tmp_path, photos, spliceable):
    seeded = cli("evaluate", str(spliceable), *MICRO, f"images.root={photos}", "splice=true", "vit.seed=3")
    assert seeded.code == 1 and "another backbone (weights: random:0 and random:3)" in seeded.err
    head = f"head={tmp_path / 'none.safetensors'}"
    misread = cli("evaluate", str(spliceable), *MICRO, f"images.root={photos}", "splice=true", head)
    assert misread.code == 1 and "cannot be read" in misread.err
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "a.png").write_bytes((photos / "01.png").read_bytes())
    other = cli("evaluate", str(spliceable), *MICRO, f"images.root={tmp_path / 'others'}", "splice=true")
    assert other.code == 1 and "give the image set that was recorded" in other.err


@pytest.mark.slow
def test_a_folder_is_every_finished_run_below_it(cli, tiny, tmp_path, run):
    """Guards against runs by date that are skipped silently, and against a stop at the first folder of a refused command."""
    root = tmp_path / "outputs" / "train"
    for name in ("2026-01-01/a", "2026-01-02/b"):
        shutil.copytree(run, root / name)
    shutil.copytree(run, root / "2026-01-02" / "killed")
    (root / "2026-01-02" / "killed" / "results.parquet").unlink()
    (root / "2026-01-02" / "refused" / ".hydra").mkdir(parents=True)
    found = find_dictionaries(str(root))
    assert len(found) == 4 and {one.path.parents[1].name for one in found} == {"a", "b"}
    shown = cli("evaluate", f"{root}/*/*", f"dataset={tiny}", "device=cpu")
    assert shown.code == 0 and "without dictionaries, skipped: " in shown.text and "refused" in shown.text
    shown = cli("evaluate", str(root), f"dataset={tiny}", "device=cpu")
    assert shown.code == 0 and "skipped 1 run unfinished, 1 run without dictionaries" in shown.text, shown.text


WRONG = {
    "nothing named": ([], ["no dictionary is named"]),
    "no such directory": (["/nowhere/run"], ["/nowhere/run is not there"]),
    "a folder of something else": (["{tiny}"], ["has no dictionaries"]),
    "activations that are gone": (["{run}"], ["which is not under", "dataset="]),
    "another width": (["{run}", "dataset={wide}"], ["d_model=16", "have 24"]),
    "no such layer": (["{run}", "dataset={tiny}", "layer=9"], ["layer=9"]),
    "no such examples": (["{run}", "examples=none"], ["examples=none", "held_out"]),
    "no batch": (["{run}", "batch_size=0"], ["batch_size=0"]),
    "a head that is none": (
        ["{run}", "dataset={tiny}", "splice=true", "head={tiny}/manifest.json"],
        ["cannot be read"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_a_message_with_the_remedy(case, cli, tiny, tmp_path, run):
    places = {"tiny": tiny, "run": run, "wide": tmp_path / "wide"}
    arguments, said = WRONG[case]
    if case == "another width":
        record(tmp_path / "wide", n_examples=20, d_model=24)
    shown = cli("evaluate", "device=cpu", *(a.format(**places) for a in arguments))
    assert shown.code == 1 and "Traceback" not in shown.text
    for text in said:
        assert text in shown.err, shown.err


def test_settings_of_splicing_are_reported_without_it(cli, tiny, run):
    shown = cli("evaluate", str(run), f"dataset={tiny}", "splice_images=3", "device=cpu")
    assert shown.code == 0 and "splice_images=3: no effect without splice=true" in shown.text


@pytest.mark.slow
def test_another_layer_or_backbone_is_warned_of(cli, tiny, tmp_path, run):
    shown = cli("evaluate", str(run), f"dataset={tiny}", "layer=2", "device=cpu")
    assert shown.code == 0 and "was trained on layer 1, not on layer=2" in shown.text
    config = find_dictionaries([str(run)])[0].path / "config.json"
    about = json.loads(config.read_text())
    about["provenance"]["vit"] = {"name": "none", "weights": "others"}
    config.write_text(json.dumps(about))
    sign(config.parent)
    shown = cli("evaluate", str(config.parent), f"dataset={tiny}", "device=cpu")
    assert shown.code == 0 and "trained on another backbone" in shown.text
