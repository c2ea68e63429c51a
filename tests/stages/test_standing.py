"""A run's directory used a second time: finished, interrupted, or another run's."""

import polars as pl
import pytest
from conftest import TINY

RUN = ("train", "experiment=none", "layer=1", *TINY, "n_tokens=640", "val_every=5", "keep_checkpoint=true")


@pytest.mark.slow
def test_a_directory_is_finished_or_resumable_or_another_runs(cli, tiny, tmp_path):
    run = tmp_path / "run"
    command = (*RUN, f"dataset={tiny}", f"hydra.run.dir={run}")
    assert cli(*command).code == 0
    first = pl.read_parquet(run / "results.parquet")

    written = (run / "results.parquet").stat().st_mtime_ns
    again = cli(*command)
    assert again.code == 0 and f"finished already: {run}" in again.text
    assert (run / "results.parquet").stat().st_mtime_ns == written

    other = cli(*command, "lr=0.5")
    assert other.code == 1 and "lr: None there, 0.5 here" in other.err and f"ckpt_path={run}" in other.err

    (run / "results.parquet").unlink()
    resumed = cli(*command)
    assert resumed.code == 0 and f"resuming from {run / 'checkpoints' / 'last.ckpt'}" in resumed.text
    same = ["member", "nmse", "l0", "l1", "dead", "coherence", "train_tokens"]
    assert pl.read_parquet(run / "results.parquet").select(same).equals(first.select(same))


@pytest.mark.slow
def test_a_refused_setting_leaves_the_run_unchanged(cli, tiny, tmp_path):
    """Guards against a run, or its results, that one mistyped resume spoils for good."""
    run = tmp_path / "run"
    assert cli(*RUN, f"dataset={tiny}", f"hydra.run.dir={run}").code == 0
    kept = ("results.parquet", "config.yaml", ".hydra/overrides.yaml", "checkpoints/last.ckpt")
    before = [(run / name).read_bytes() for name in kept]

    refused = cli("train", f"ckpt_path={run}", "batch_size=32")
    assert refused.code == 1 and "had batch_size=64, this run has batch_size=32" in refused.err
    elsewhere = cli("train", f"hydra.run.dir={run}", "layer=2")
    assert elsewhere.code == 1 and "a run with other settings" in elsewhere.err
    assert [(run / name).read_bytes() for name in kept] == before

    (run / "results.parquet").unlink()
    resumed = cli("train", f"ckpt_path={run}", "log_every=2")
    assert resumed.code == 0, resumed.text
    assert "log_every=2" in (run / ".hydra" / "overrides.yaml").read_text()


@pytest.mark.slow
def test_a_finished_run_keeps_its_checkpoint_only_when_requested(cli, tiny, tmp_path):
    run = tmp_path / "run"
    assert cli(*RUN[:-1], f"dataset={tiny}", f"hydra.run.dir={run}").code == 0
    assert (run / "results.parquet").is_file() and not list(run.rglob("*.ckpt*"))
    longer = cli("train", f"ckpt_path={run}", "n_tokens=1280")
    assert longer.code == 1 and "only keep_checkpoint=true keeps" in longer.err


@pytest.mark.slow
def test_status_names_single_runs_and_refuses_other_folders(cli, tiny, tmp_path):
    assert cli(*RUN[:-1], f"dataset={tiny}").code == 0
    (run,) = (tmp_path / "outputs" / "train").glob("*/*")
    shown = cli("status")
    assert shown.code == 0 and f"{run}\n" in shown.out and "1 finished" in shown.out
    refused = cli("status", str(tmp_path))
    assert refused.code == 1 and f"{tmp_path} is neither a sweep nor a run" in refused.err
