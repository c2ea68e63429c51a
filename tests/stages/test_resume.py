"""Which run ckpt_path goes on with, and with what settings."""

import os
import re

import pytest
from omegaconf import OmegaConf

from saev.config.resume import with_run_dir
from saev.locks import exclusive
from saev.runs.ledger import LOCK


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two interrupted runs, the newer one second, and a finished one that is newer still."""
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path))
    made = [tmp_path / "train" / "day" / name for name in ("old", "new=1 [x]", "finished")]
    for age, run in enumerate(made):
        (run / ".hydra").mkdir(parents=True)
        (run / "checkpoints").mkdir()
        OmegaConf.save(OmegaConf.create(["sae=topk", f"k={age}", "ckpt_path=none"]), run / ".hydra" / "overrides.yaml")
        checkpoint = run / "checkpoints" / "last.ckpt"
        checkpoint.touch()
        os.utime(checkpoint, (age, age))
    (made[2] / "results.parquet").touch()
    return made


def test_last_is_the_newest_unfinished_run_with_its_own_settings(runs):
    expected = ["sae=topk", "k=1", f'ckpt_path="{runs[1]}/checkpoints/last.ckpt"', f'hydra.run.dir="{runs[1]}"']
    assert with_run_dir("train", ["ckpt_path=last"]) == expected


def test_what_last_passes_over_is_named(runs, capsys):
    """Guards against `last` that silently resumes an older run, because the newest was killed before its first checkpoint."""
    for age, run in enumerate(runs):
        os.utime(run / ".hydra" / "overrides.yaml", (age, age))
    killed = runs[0].with_name("killed")
    (killed / ".hydra").mkdir(parents=True)
    (killed / ".hydra" / "overrides.yaml").write_text("[]")
    with_run_dir("train", ["ckpt_path=last"])
    said = capsys.readouterr().err
    assert f"resuming {runs[1]}" in said and f"{killed} (no checkpoint)" in said and f"{runs[2]} (finished)" in said
    assert str(runs[0]) not in said


def test_further_settings_are_added_to_the_runs_own(runs):
    """Guards against a resume that drops the run's settings as soon as one more is given."""
    assert with_run_dir("train", ["ckpt_path=last", "logger=csv"])[:3] == ["sae=topk", "k=1", "logger=csv"]


@pytest.mark.parametrize("override", ["k=64", "sae.k=64", "+sparsity=1e-3", "sae=relu"])
def test_what_a_run_trains_cannot_be_changed_on_the_way(runs, override):
    """Found at once, where it was found after the data had been opened and the bank built."""
    with pytest.raises(
        ValueError, match=rf"resumes the SAEs of that run, without {re.escape(override)}: leave that out"
    ):
        with_run_dir("train", ["ckpt_path=last", override])
    assert with_run_dir("train", ["k=1", "ckpt_path=last"])[:3] == ["sae=topk", "k=1", "k=1"], "as it is"


def test_a_directory_and_a_file_can_be_named(runs):
    assert with_run_dir("train", [f"ckpt_path={runs[0]}"])[1] == "k=0"
    file = runs[1] / "checkpoints" / "last.ckpt"
    assert with_run_dir("train", ["k=9", f"ckpt_path={file}"]) == ["k=9", f'ckpt_path="{file}"']


def test_a_run_that_is_being_trained_is_left_alone(runs):
    with exclusive(runs[1] / LOCK):
        assert with_run_dir("train", ["ckpt_path=last"])[1] == "k=0"
        with pytest.raises(ValueError, match="another process is working in this run"):
            with_run_dir("train", [f"ckpt_path={runs[1]}"])


def test_what_is_not_there_is_named(runs, tmp_path):
    with pytest.raises(ValueError, match=r"nope\.ckpt: there is no such file or directory"):
        with_run_dir("train", ["ckpt_path=/nope.ckpt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"last\.ckpt is missing there"):
        with_run_dir("train", [f"ckpt_path={tmp_path / 'empty'}"])


def test_baselines_are_resumed_in_their_own_folder(runs, tmp_path):
    """Guards against `saev fit ckpt_path=last`, which started anew."""
    with pytest.raises(ValueError, match=f"no interrupted run with a checkpoint under {tmp_path}/fit"):
        with_run_dir("fit", ["ckpt_path=last"])
    assert with_run_dir("fit", [f"ckpt_path={runs[0]}"])[:2] == ["sae=topk", "k=0"]
    with pytest.raises(ValueError, match="resumes in its directory"):
        with_run_dir("fit", [f"ckpt_path={runs[0] / 'checkpoints' / 'last.ckpt'}"])


def test_other_commands_are_left_as_they_are(runs):
    assert with_run_dir("record", ["ckpt_path=last"]) == ["ckpt_path=last"]
    assert with_run_dir("train", ["k=1"]) == ["k=1"] and with_run_dir("train", ["ckpt_path=null"]) == ["ckpt_path=null"]


def test_a_sweep_cannot_be_resumed_as_one(cli, runs):
    shown = cli("train", "-m", "ckpt_path=last", "k=1,2")
    assert shown.code == 1 and "resume one run at a time" in shown.text
