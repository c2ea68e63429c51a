"""Whole runs as a user types them: results, interruption and resume, several processes, what is left behind."""

import json
import shutil
import signal
import time

import polars as pl
import pytest
import torch
from conftest import TINY, environment, topk_run
from PIL import Image
from serving import serve

import saev

BANK = 'variants=[["sae=batchtopk","k=4"],["sae=relu","sparsity=1e-2"]]'
RUN = ("experiment=none", "layer=1", BANK, *TINY, "n_tokens=2560", "val_every=10")  # 44 steps


@pytest.fixture(scope="module")
def undisturbed(nursery, tiny, tmp_path_factory):
    """(directory, printed) of a finished run of two SAEs, with its report."""
    out = tmp_path_factory.mktemp("undisturbed")
    child = nursery.start("train.py", f"dataset={tiny}", *RUN, "report=true", env=environment(out))
    printed, errors = child.communicate()
    assert child.returncode == 0, errors
    return next((out / "train").glob("*/*")), printed


def test_a_run_leaves_what_a_researcher_needs(undisturbed):
    run, printed = undisturbed
    table = pl.read_parquet(run / "results.parquet")
    assert table["member"].to_list() == ["sae=batchtopk,k=4", "sae=relu,sparsity=1e-2"]
    assert {"nmse", "l0", "l1", "dead", "dead_train", "dense_above_0.1", "coherence", "tokens_per_s"} <= set(
        table.columns
    )
    assert table["k"].to_list() == [4, None] and table["sparsity"].to_list() == [None, 1e-2]
    assert pl.read_csv(run / "results.csv").shape == table.shape
    assert (run / "report.html").stat().st_size > 10_000 and (run / "config.yaml").is_file()
    for name in table["member"]:
        assert name in printed
        config = saev.read_config(run / "saes" / name)
        assert config["provenance"]["layer"] == 1 and config["hyperparameters"]["lr"] == 3e-3
        assert json.loads((run / "saes" / name / "metrics.json").read_text()) == config["metrics"]
        assert list((run / "tensorboard" / name).glob("events.*"))
    assert str(run / "report.html") in printed and "NMSE" in printed


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads http through curl")
def test_a_dataset_far_away_is_trained_on_to_the_end(cli, tiny, tmp_path):
    """Guards against results lost because the page cannot fetch single images."""
    with serve(tiny) as url:
        done = cli("train", "experiment=none", f"dataset={url}", "layer=-1", *TINY, "report=true")
    assert done.code == 0, done.text
    run = next((tmp_path / "outputs" / "train").glob("*/*"))
    assert pl.read_parquet(run / "results.parquet")["nmse"].is_finite().all()
    assert "shows no images" in done.text and (run / "report.html").is_file() and url in done.text


@pytest.mark.slow
def test_the_report_shows_the_images_given_beside_a_dataset(cli, tiny, tmp_path):
    for path in saev.ActivationStore(tiny).examples["path"]:
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), "red").save(tmp_path / "photos" / path, "png")
    call = topk_run(tiny, "k=2", "report=true", "images=folder")
    done = cli(*call, f"images.root={tmp_path / 'photos'}", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 0, done.text
    page = (tmp_path / "run" / "report.html").read_text()
    assert "image/webp" in page and "no image source" not in page
    blind = cli(*call, f"images.root={tmp_path / 'nowhere'}", f"hydra.run.dir={tmp_path / 'blind'}")
    assert blind.code == 0 and "report.html will show no photos" in blind.text
    assert "nowhere" in (tmp_path / "blind" / "report.html").read_text()


def test_exported_dictionaries_are_those_of_the_table(undisturbed, tiny):
    run, _ = undisturbed
    store = saev.ActivationStore(tiny)
    held_out = sorted(set(range(40)) - set(train_images(tiny)))
    x = torch.cat([torch.from_numpy(store.read(1, e, "patches").copy()) for e in held_out])
    for row in pl.read_parquet(run / "results.parquet").iter_rows(named=True):
        sae = saev.load(run / "saes" / row["member"])
        codes = sae.encode(x)
        nmse = (x - sae.decode(codes)).double().square().sum() / (x - x.mean(0)).double().square().sum()
        assert float(nmse) == pytest.approx(row["nmse"], rel=1e-5)
        assert float((codes != 0).sum(1).double().mean()) == pytest.approx(row["l0"], rel=1e-6)


def train_images(tiny):
    from datamodules import ActivationDataModule

    data = ActivationDataModule(str(tiny), 1, 64)
    data.setup("fit")
    return data.train_examples.tolist()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_is_undisturbed(number, nursery, undisturbed, tiny, tmp_path):
    reference, _ = undisturbed
    command = ("train.py", f"dataset={tiny}", *RUN, "callbacks.checkpoint.every_n_steps=1")
    process = nursery.start(*command, env=environment(tmp_path))
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("train/*/*/checkpoints/last.ckpt")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    said = "".join(process.communicate(timeout=120))
    run = next((tmp_path / "train").glob("*/*"))
    if process.returncode == 0:
        pytest.skip("the run was faster than the signal")
    assert process.returncode == 128 + number and "resume with: ckpt_path=" in said
    assert not (run / "results.parquet").exists()
    resumed = nursery.start("train.py", "ckpt_path=last", env=environment(tmp_path))
    printed = resumed.communicate()
    assert resumed.returncode == 0, printed
    assert [p.name for p in (tmp_path / "train").glob("*/*")] == [run.name]  # the same directory
    same = ["member", "nmse", "l0", "l1", "dead", "coherence", "train_tokens"]
    one, other = (pl.read_parquet(path / "results.parquet").select(same) for path in (reference, run))
    assert one.equals(other)
    for name in one["member"]:
        a, b = (saev.load(path / "saes" / name).state_dict() for path in (reference, run))
        assert all(torch.equal(a[key], b[key]) for key in a)
    what = [
        [tuple(json.loads(line)[key] for key in ("step", "split", "member")) for line in file.read_text().splitlines()]
        for file in (reference / "metrics.jsonl", run / "metrics.jsonl")
    ]
    assert what[0] == what[1]


@pytest.mark.parametrize(("split", "parts"), [("batch", 2), ("members", 1)])
def test_two_processes_train_the_bank_of_one(split, parts, tiny, fork_python, cli, tmp_path):
    short = ("trainer.accelerator=cpu", "n_tokens=640", "val_every=5")
    common = (f"dataset={tiny}", *(o for o in RUN if o != "trainer=cpu"), *short)
    root = tmp_path / "outputs" / "train"
    done = fork_python("train.py", *common, "trainer=ddp", f"trainer.strategy.split={split}")
    assert done.code == 0, done.text
    (run,) = root.glob("*/*")
    alone = cli("train", *common, f"datamodule.parts={parts}")
    assert alone.code == 0, alone.text
    (reference,) = {*root.glob("*/*")} - {run}
    same = ["nmse", "l0", "l1", "dead", "coherence", "train_tokens"]
    one, other = (pl.read_parquet(path / "results.parquet") for path in (reference, run))
    assert one["member"].equals(other["member"])
    for name in same:
        assert other[name].to_list() == pytest.approx(one[name].to_list(), rel=1e-5), name
    for name in one["member"]:
        a, b = (saev.load(path / "saes" / name).state_dict() for path in (reference, run))
        close = 0 if split == "members" else 1e-5
        assert all(torch.allclose(a[key], b[key], rtol=close, atol=close) for key in a)


def test_a_failed_job_of_several_processes_ends_no_other(tiny, fork_python, tmp_path):
    """Guards against Lightning's watch over a failed job's processes, which kills this one in the middle of the next job."""
    # both diverge, which is noticed where numbers are written: the second job writes none and comes to its end
    fails_once = (
        "sae=topk",
        "k=4",
        "init=random",
        "n_tokens=640",
        "lr=1e30",
        "clip=1e30",
        "val_every=100",
        "log_every=1,100",
    )
    ddp = ("trainer=ddp", "trainer.accelerator=cpu")
    given = (
        "experiment=none",
        f"dataset={tiny}",
        "layer=1",
        *(o for o in TINY if o not in ("trainer=cpu", "log_every=1", "val_every=1")),
    )
    done = fork_python("train.py", *given, *ddp, "-m", *fails_once)
    (sweep,) = (tmp_path / "outputs" / "train").glob("*/*_sweep")
    assert done.code == 1 and "1 of 2 jobs failed" in done.err, done.text
    assert pl.read_parquet(sweep / "results.parquet")["job"].to_list() == ["1_log_every=100"]


def test_nothing_to_resume(cli):
    result = cli("train", "ckpt_path=last")
    assert result.code == 1 and "no interrupted run with a checkpoint" in result.text
