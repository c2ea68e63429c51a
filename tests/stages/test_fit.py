"""Baselines from the command line: many in the same passes, saved and measured as SAEs are, gone on with exactly."""

import json
import os
import signal
from pathlib import Path

import polars as pl
import pytest
import torch

import saev
from saev.baselines.semi_nmf import SemiNMFFitter

BANK = (
    'variants=[["baseline=kmeans"],["baseline=pca","baseline.k=[1,4]"],["baseline=random_vectors"],'
    '["baseline=random_vectors","baseline.variant=untrained"],["baseline=semi_nmf"]]'
)
NAMES = ["kmeans", "pca,k=1", "pca,k=4", "random_vectors", "random_vectors,variant=untrained", "semi_nmf"]


@pytest.fixture
def command(tiny):
    few = ("batch_size=50", "datamodule.val_fraction=0.2", "n_latents=12", "k=3", "passes=3")
    return ("fit", f"dataset={tiny}", "layer=1", *few, BANK)


def runs(tmp_path):
    return sorted(path.parent for path in (tmp_path / "outputs" / "fit").glob("*/*/metrics.jsonl"))


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    """The recording is too small for the advised number of points per centroid, which is said."""
    monkeypatch.setattr("saev.nn.centroids.ENOUGH", 1)


def test_every_baseline_has_what_an_sae_has(cli, command, tiny, tmp_path):
    done = cli(*command)
    assert done.code == 0, done.text
    (run,) = runs(tmp_path)
    table = pl.read_parquet(run / "results.parquet")
    assert table["member"].to_list() == NAMES and pl.read_csv(run / "results.csv").height == len(NAMES)
    x = torch.cat([torch.from_numpy(saev.ActivationStore(tiny).read(1, e, "patches").copy()) for e in held_out(tiny)])
    for row in table.iter_rows(named=True):
        made = saev.load(run / "saes" / row["member"])
        codes = made.encode(x)
        error = (x - made.decode(codes)).double().square().sum() / (x - x.mean(0)).double().square().sum()
        assert float(error) == pytest.approx(row["nmse"], rel=1e-5)
        assert float((codes != 0).sum(1).double().mean()) == pytest.approx(row["l0"], rel=1e-6)
        assert (
            made.atoms.shape == (row["d_sae"], 16)
            and saev.read_config(run / "saes" / row["member"])["provenance"]["layer"] == 1
        )
    about = {name: saev.read_config(run / "saes" / name)["hyperparameters"] for name in NAMES}
    assert about["random_vectors,variant=untrained"]["variant"] == "untrained" and about["kmeans"]["tol"] == 1e-4
    assert about["pca,k=4"]["k"] == 4 and about["semi_nmf"]["l1_penalty"] == table["l1_penalty"].to_list()[-1] == 0
    assert "dead (%)" in done.out and "tokens/s" not in done.out
    nmse = dict(zip(table["member"], table["nmse"], strict=True))
    assert nmse["pca,k=4"] < nmse["pca,k=1"] < 1 and nmse["kmeans"] < 1 and nmse["random_vectors"] < 1
    assert not (run / "checkpoints" / "last.ckpt").exists()
    again = cli(*command, f"hydra.run.dir={run}")
    assert again.code == 0 and "finished already" in again.text


def held_out(tiny):
    from datamodules import ActivationDataModule

    data = ActivationDataModule(str(tiny), 1, 50, val_fraction=0.2)
    data.setup("fit")
    return data.val_examples.tolist()


@pytest.fixture
def interrupted(cli, command, tmp_path, monkeypatch):
    """A run that a signal reached in the second pass, when some of the fitters had a batch and the others had not."""

    def interrupt(number):
        update, seen = SemiNMFFitter.update, []

        def signalled(self, z, token):
            seen.append(len(z))
            if len(seen) == 16:
                os.kill(os.getpid(), number)
            update(self, z, token)

        with monkeypatch.context() as patched:
            patched.setattr(SemiNMFFitter, "update", signalled)
            stopped = cli(*command, f"hydra.run.dir={tmp_path}/run")
        assert stopped.code == 128 + number and not (tmp_path / "run" / "results.parquet").exists(), stopped.text
        assert f"to resume: saev fit ckpt_path={tmp_path}/run" in stopped.text
        return tmp_path / "run"

    return interrupt


@pytest.fixture(scope="module")
def finished() -> list[Path]:
    """The undisturbed run, which the first test that needs it makes."""
    return []


@pytest.fixture
def reference(finished, cli, command, tmp_path):
    """The directory of an undisturbed run."""
    if not finished:
        done = cli(*command)
        assert done.code == 0, done.text
        finished.extend(runs(tmp_path))
    return finished[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_is_undisturbed(cli, reference, interrupted, number):
    run = interrupted(number)
    with open(run / "metrics.jsonl", "a") as file:  # as a process that was killed before it saved would leave it
        file.write(json.dumps({"step": 1000, "pass": 2, "member": "semi_nmf"}) + "\n{")
    done = cli("fit", f"ckpt_path={run}", "save_every_s=0")
    assert done.code == 0 and "of pass 2" in done.text, done.text
    one, other = (pl.read_parquet(path / "results.parquet") for path in (reference, run))
    assert one.equals(other)
    for name in NAMES:
        a, b = (saev.load(path / "saes" / name).state_dict() for path in (reference, run))
        assert all(torch.equal(a[key], b[key]) for key in a)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["pass"] for line in lines if line["member"] == "semi_nmf"] == [1, 2, 3]


@pytest.mark.slow
def test_the_same_command_resumes_and_another_is_refused(cli, command, interrupted):
    run = interrupted(signal.SIGINT)
    other = cli("fit", f"ckpt_path={run}", "seed=1")
    assert other.code == 1 and "resumes the baselines of that run, without seed=1" in other.err
    other = cli("fit", f"ckpt_path={run}", "batch_size=7")
    assert other.code == 1 and "batch_size" in other.err and "by ckpt_path=" in other.err
    done = cli(*command, f"hydra.run.dir={run}", "keep_checkpoint=true")
    assert done.code == 0 and "resuming from" in done.text, done.text
    assert (run / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.slow
def test_a_sweep_shares_the_passes(cli, tiny, tmp_path):
    shown = cli("fit", f"dataset={tiny}", "batch_size=50", "passes=1", "layer=1", "-m", "n_latents=4,8", "seed=0,1")
    assert shown.code == 0 and "4 SAEs in 1 job" in shown.text, shown.text
    (sweep,) = (path.parent for path in (tmp_path / "outputs" / "fit").glob("*/*/sweep.json"))
    assert pl.read_parquet(sweep / "results.parquet")["member"].to_list() == [
        "n_latents=4,seed=0", "n_latents=4,seed=1", "n_latents=8,seed=0", "n_latents=8,seed=1"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["baseline=pca", "n_latents=8"], "n_latents=8 has no effect as baseline=pca has no n_latents: drop it."),
        (["baseline=kmeans", "k=8"], "k=8 has no effect"),
        (["baseline=pca", "k=8"], "k=8 has no effect as baseline.k is set by itself: drop it, or set baseline.k."),
        (
            ["-m", "baseline=pca,kmeans", "k=8"],
            "k=8 has no effect as baseline.k is set by itself, as baseline=kmeans has no k",
        ),
        (["n_latents=100000"], "n_latents"),
        (["baseline=random_vectors", "n_latents=8", "k=9"], "k=9"),
        (["passes=0"], "passes=0"),
        (["device=tpu"], "device=tpu"),
        (["datamodule.n_tokens=100"], "datamodule.n_tokens=100 has no effect"),
        (["ckpt_path=last"], "no interrupted run"),
    ],
)
def test_what_does_not_fit_is_named(overrides, message, cli, tiny, tmp_path):
    shown = cli("fit", f"dataset={tiny}", "layer=1", "batch_size=50", *overrides)
    assert shown.code == 1 and message in shown.err, shown.text
    assert not list((tmp_path / "outputs").rglob("results.parquet"))
