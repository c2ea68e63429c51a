"""Sweeps on a real one-node Slurm: preempted and requeued, killed, left alone, recorded in parts."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import ROOT, environment
from nursery import Child
from PIL import Image

from saev.runs import slurm
from saev.shards import ActivationStore

SWEEP = (
    "train.py", "-m", "experiment=none", "sae=topk", "trainer=cpu", "logger=none", "d_sae=64", "batch_size=64",
    "n_tokens=12800", "warmup=0", "val_every=100", "log_every=20", "dead_tokens=640", "report=false",
    "hydra.sweeper.check=false",
)  # fmt: skip
SLOW = ("callbacks.checkpoint.every_n_steps=1",)  # 200 steps, of which any may be the last one saved
SAME = ["member", "nmse", "l0", "l1", "dead", "coherence", "train_tokens"]
SLURM = tuple(
    f"hydra.launcher.{setting}"
    for setting in ("gpus_per_node=null", "mem_gb=null", "cpus_per_task=1", "poll_s=0.3", "lost_after_s=2")
)


@pytest.fixture
def start(nursery, tmp_path, slurm_cluster):
    """`start("train.py", ...)` runs the script in a process that need not import the libraries; its jobs have to."""
    return lambda *script: nursery.start(*script, env=environment(tmp_path))


def until(what, process: Child | None = None, seconds: float = 300):
    """What `what` returns, once that is something; fails with the command's output where it ends before."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        ended = process is not None and process.poll() is not None
        assert not ended and time.monotonic() < deadline, process and ended and process.communicate()
        time.sleep(0.05)
    return found


def slurm_jobs(sweep: Path, n: int, process: Child | None = None) -> dict[str, str]:
    """Folder -> Slurm job id of the sweep's `n` jobs, once they are submitted."""
    return until(lambda: len(found := slurm.submitted(sweep)) == n and found, process)


def in_training(sweep: Path, folder: str, process: Child) -> None:
    """Wait until the job has taken a step."""
    until((sweep / folder / "checkpoints" / "last.ckpt").is_file, process)


def command(*arguments: str) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def test_preempted_jobs_end_with_the_results_of_an_undisturbed_sweep(start, tiny, tmp_path, cli):
    # more than a job can do between TERM and KILL
    members = ("layer=1,2", "k=2,8", "n_tokens=64000", f"dataset={tiny}")
    sweep, undisturbed = tmp_path / "preempted", tmp_path / "undisturbed"
    process = start(*SWEEP, *SLOW, *members, f"hydra.sweep.dir={sweep}", "hydra/launcher=slurm", *SLURM)
    (first, one), (second, other) = slurm_jobs(sweep, 2, process).items()
    in_training(sweep, first, process)
    command("scontrol", "requeue", one)  # TERM, and KILL after KillWait
    in_training(sweep, second, process)
    command("scancel", "--signal=USR2", other)  # as before a time limit
    reference = cli("train", *SWEEP[1:], *members, f"hydra.sweep.dir={undisturbed}", "hydra/launcher=basic")
    assert reference.code == 0, reference.text
    said = "".join(process.communicate())
    assert process.returncode == 0 and "2 done" in said, said
    for folder, job, sent in ((first, one, "SIGTERM"), (second, other, "SIGUSR2")):
        log = (sweep / folder / "train.log").read_text()
        assert log.index(f"{sent}: saving after this step") < log.index("resuming from")
        assert "Restarts=1 " in command("scontrol", "show", "job", "--oneliner", job)
        ours, theirs = (
            pl.read_parquet(root / folder / "results.parquet").select(SAME) for root in (sweep, undisturbed)
        )
        assert len(ours) == 2 and ours.equals(theirs)
        for member in ours["member"]:
            mine, its = (root / folder / "saes" / member / "dictionary.safetensors" for root in (sweep, undisturbed))
            assert mine.read_bytes() == its.read_bytes()


def test_a_job_that_dies_is_reported_and_the_others_finish(start, tiny, tmp_path):
    sweep = tmp_path / "sweep"
    # more than the job can do between TERM and KILL
    members = ("layer=1,2", "k=4", "n_tokens=64000", f"dataset={tiny}")
    process = start(*SWEEP, *SLOW, *members, f"hydra.sweep.dir={sweep}", "hydra/launcher=slurm", *SLURM)
    (dying, job), (other, _) = slurm_jobs(sweep, 2, process).items()
    in_training(sweep, dying, process)
    command("scancel", job)
    said = "".join(process.communicate())
    assert process.returncode == 1
    assert f"{dying}: Slurm job {job}: ended without a result (state CANCELLED in Slurm)" in said, said
    assert str(sweep / ".submitit" / job / f"{job}_0_log.err") in said
    assert not (sweep / dying / "results.parquet").exists() and (sweep / other / "results.parquet").is_file()


def test_a_detached_job_is_submitted_and_left_alone(start, tiny, tmp_path):
    sweep, one = tmp_path / "sweep", ("layer=1", "k=4", f"dataset={tiny}")
    settings = [word.replace("report=false", "report=true") for word in SWEEP]
    process = start(*settings, *one, f"hydra.sweep.dir={sweep}", "hydra/launcher=slurm_detached", *SLURM)
    said = "".join(process.communicate())
    ((folder, job),) = slurm.submitted(sweep).items()
    assert process.returncode == 0 and slurm.states([job])[job] in ("PENDING", "CONFIGURING", "RUNNING"), said
    assert f"saev status {sweep}" in said and f"scancel {job}" in said
    assert not (sweep / folder / "results.parquet").exists()
    until((sweep / folder / "results.parquet").is_file)
    until(lambda: slurm.states([job]) == {job: "COMPLETED"})
    assert (sweep / "results.csv").is_file() and (sweep / "report.html").is_file(), (
        "written by the job that was the last"
    )


def test_two_processes_and_a_plain_batch_job_save_requeue_themselves_and_resume(start, tiny, tmp_path):
    sweep, plain, script = tmp_path / "sweep", tmp_path / "plain", tmp_path / "job.sh"
    settings = [*SWEEP[2:-1], *SLOW, "layer=1", "k=4", f"dataset={tiny}"]
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "hydra/launcher=slurm", "hydra.launcher.tasks_per_node=2", *SLURM)
    process = start("train.py", "-m", *(s for s in settings if s != "trainer=cpu"), *ddp, f"hydra.sweep.dir={sweep}")
    script.write_text(
        f"""#!/bin/bash
#SBATCH --requeue --open-mode=append --output={tmp_path}/log --signal=USR1@120
trap '' USR1 TERM
OMP_NUM_THREADS=1 srun {sys.executable} train.py {" ".join(settings)} hydra.run.dir={plain}
"""
    )
    batch = re.search(r"\d+", command("sbatch", f"--chdir={ROOT}", str(script)))[0]
    until((plain / "checkpoints" / "last.ckpt").is_file)
    command("scancel", "--signal=USR1", batch)
    ((folder, job),) = slurm_jobs(sweep, 1, process).items()
    in_training(sweep, folder, process)
    command("scancel", "--signal=USR2", job)
    said = "".join(process.communicate())
    assert process.returncode == 0, said
    until((plain / "results.parquet").is_file)
    for run, number in ((sweep / folder, job), (plain, batch)):
        assert "Restarts=1 " in command("scontrol", "show", "job", "--oneliner", number)
        assert "resuming from" in (run / "train.log").read_text()
        assert pl.read_parquet(run / "results.parquet")["train_tokens"].item() == pytest.approx(12800, rel=0.01)


def test_a_recording_is_made_in_parts(start, tmp_path):
    photos, rng = tmp_path / "photos", np.random.default_rng(0)
    photos.mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(photos / f"{i}.png")
    process = start(
        str(Path(sys.executable).with_name("saev")), "record", "-m", "record.part=0/2,1/2", "images=folder",
        f"images.root={photos}", "vit=micro", "layer=1", "record.shard_mb=0.01", "record.device=cpu",
        f"hydra.sweep.dir={tmp_path / 'sweep'}", "hydra/launcher=slurm", *SLURM,
    )  # fmt: skip
    said = "".join(process.communicate())
    assert process.returncode == 0 and "2 done" in said, said
    (recorded,) = (path.parent for path in (tmp_path / "activations").glob("*/manifest.json"))
    store = ActivationStore(recorded)
    assert len(store.examples) == 24 and store.verify() == []


def test_traits_of_layers_go_from_photos_to_tables_in_jobs(start, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24):
        folder = tmp_path / "photos" / ("dark" if i % 2 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 100, (40, 40, 3), dtype=np.uint8) + 150 * (i % 2)).save(folder / f"{i}.png")
    process = start(
        str(Path(sys.executable).with_name("saev")), "traits", "-m", "layer=1,2", "images=folder",
        f"images.root={tmp_path / 'photos'}", "vit=micro", "record.device=cpu", "device=cpu", "traits=columns",
        "traits.columns=[class]", "baseline_size=16", "bootstrap=0", f"hydra.sweep.dir={tmp_path / 'sweep'}",
        "hydra/launcher=slurm", *SLURM,
    )  # fmt: skip
    said = "".join(process.communicate())
    assert process.returncode == 0 and "2 done" in said, said
    tables = [pl.read_parquet(path) for path in sorted((tmp_path / "sweep").glob("*/traits.parquet"))]
    joined = pl.concat(tables, how="diagonal").unique("key")
    assert {*joined["layer"]} == {1, 2} and len(joined) == sum(map(len, tables))


def test_without_slurm_the_remedy_is_named(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert shutil.which("sbatch") is None
    done = cli("train", *SWEEP[1:], "layer=1", "k=4", f"dataset={tiny}", "hydra/launcher=slurm")
    assert done.code == 1 and "sbatch and squeue are not on PATH" in done.text and "hydra/launcher=joblib" in done.text
