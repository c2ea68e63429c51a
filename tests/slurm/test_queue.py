"""What is written down of submitted jobs and read from squeue, by a squeue that says what a test wants."""

import json
import os

import pytest

from saev.runs import slurm


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """`squeue(out, err, code)` puts a program of that name on PATH; what it was asked stands in tmp_path/asked."""

    def make(out="", err="", code=0):
        program = tmp_path / "bin" / "squeue"
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f"#!/bin/sh\necho \"$*\" >> {tmp_path}/asked\nprintf '{out}'\nprintf '{err}' >&2\nexit {code}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)

    return make


def test_the_newest_job_of_each_folder_is_kept(tmp_path):
    assert slurm.submitted(tmp_path) == {}
    slurm.record_jobs(tmp_path, {"layer=1": "12_0", "layer=2": "12_1"})
    slurm.record_jobs(tmp_path, {"layer=2": "13"})
    assert slurm.submitted(tmp_path) == {"layer=1": "12_0", "layer=2": "13"}
    assert [path.name for path in (tmp_path / ".submitit").iterdir()] == ["jobs.json"]
    assert json.loads((tmp_path / ".submitit" / "jobs.json").read_text())["layer=2"] == "13"


def test_states_are_squeues_words_for_the_jobs_it_knows(squeue, tmp_path):
    squeue("12_0 RUNNING\\n12_1 PENDING\\n13 CANCELLED\\n99 RUNNING\\n")
    assert slurm.states(["12_0", "12_1", "13", "14"]) == {"12_0": "RUNNING", "12_1": "PENDING", "13": "CANCELLED"}
    assert "--jobs=12,13,14" in (tmp_path / "asked").read_text()  # an array is asked for once


def test_a_job_that_slurm_has_forgotten_has_no_state(squeue):
    squeue(err="slurm_load_jobs error: Invalid job id specified\\n", code=1)
    assert slurm.states(["12"]) == {}


def test_a_controller_that_does_not_answer_loses_no_job(squeue):
    squeue(err="slurm_load_jobs error: Unable to contact slurm controller\\n", code=1)
    with pytest.raises(slurm.QueueUnavailable, match=r"Unable to contact slurm controller\): try again later"):
        slurm.states(["12"])


def test_without_slurm_or_jobs_nothing_is_asked(squeue, tmp_path, monkeypatch):
    squeue("12 RUNNING\\n")
    assert slurm.states([]) == {} and not (tmp_path / "asked").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(slurm.QueueUnavailable, match=r"squeue is not on this machine.*delete .submitit/jobs.json"):
        slurm.states(["12"])
