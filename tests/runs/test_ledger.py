"""What a sweep's folder says about its jobs."""

import json

import pytest

from saev.locks import exclusive
from saev.runs import ledger
from saev.runs.ledger import JobState, Sweep, find_sweep, fingerprint, job_state, job_states, pending, skipped
from saev.runs.planning import Job

JOBS = {"0_layer=1": Job(["layer=1"], [["k=1"], ["k=2"]]), "1_layer=2": Job(["layer=2"], [[]])}


def test_a_plan_survives_the_disk(tmp_path):
    Sweep("f", JOBS).save(tmp_path)
    assert Sweep.load(tmp_path) == Sweep("f", JOBS)


def test_what_is_no_plan_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"sweep\.json is missing, so this is no sweep"):
        Sweep.load(tmp_path)
    for text in ("", "{}", '{"fingerprint": "f", "jobs": {"0": {"command": "x"}}}'):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(ValueError, match="is no plan of a sweep"):
            Sweep.load(tmp_path)


def line(step):
    return json.dumps({"step": step, "member": "a"}) + "\n"


def test_the_state_of_a_job_is_read_from_its_folder(tmp_path):
    assert job_state(tmp_path / "nothing") == JobState("not started")
    (tmp_path / "metrics.jsonl").write_text(line(5) + line(10) + '{"step": 1')  # the last line is being written
    assert job_state(tmp_path) == JobState("interrupted", 10)
    (tmp_path / "error.txt").write_text("ValueError: too hot\n")
    assert job_state(tmp_path) == JobState("failed", 10, "ValueError: too hot")
    with exclusive(tmp_path / ".lock"):
        assert job_state(tmp_path) == JobState("running", 10)
    (tmp_path / "results.parquet").touch()
    assert job_state(tmp_path) == JobState("finished", 10)


def test_the_last_step_is_found_at_the_end_of_a_long_file(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(line(step) for step in range(10_000)))
    assert ledger.last_step(tmp_path) == 9_999


def test_slurms_state_overrides_the_folders(tmp_path, monkeypatch):
    """Guards against a job that waits in the queue being launched a second time."""
    monkeypatch.setattr(ledger.slurm, "submitted", lambda directory: {"0_layer=1": "7_0", "1_layer=2": "7_1"})
    monkeypatch.setattr(ledger.slurm, "states", lambda ids: {"7_0": "PENDING", "7_1": "RUNNING"})
    found = job_states(tmp_path, JOBS)
    assert [of.state for of in found.values()] == ["queued", "running"] and not pending(found)
    monkeypatch.setattr(ledger.slurm, "states", lambda ids: {"7_0": "CANCELLED"})
    assert pending(job_states(tmp_path, JOBS)) == list(JOBS)
    monkeypatch.setattr(
        ledger.slurm, "states", lambda ids: {"7_0": "RESIZING", "7_1": "COMPLETING"}
    )  # words for: alive
    assert [of.state for of in job_states(tmp_path, JOBS).values()] == ["running", "running"]


def test_what_is_launched_and_what_is_left_alone():
    states = ("finished", "running", "queued", "failed", "interrupted", "not started")
    found = {state: JobState(state) for state in states}
    assert pending(found) == ["failed", "interrupted", "not started"]
    assert skipped(found) == [
        "finished already: finished (hydra.sweeper.rerun=true trains anew)",
        "running already: running",
        "queued already: queued",
    ]


def test_the_same_question_is_found_again(tmp_path):
    asked = fingerprint([{"k": 1, "layer": 2}])
    assert asked == fingerprint([{"layer": 2, "k": 1}]) != fingerprint([{"layer": 2, "k": 2}])
    elsewhere = {
        "k": 1,
        "layer": 2,
        "paths": {"outputs": "/x"},
        "logger": {"csv": 1},
        "record": {"root": "/x/activations"},
    }
    assert fingerprint([elsewhere]) == fingerprint([{"k": 1, "layer": 2, "record": {}}])
    for name, of in (("a_sweep", "other"), ("b_sweep", asked)):
        (tmp_path / "day" / name).mkdir(parents=True)
        Sweep(of, JOBS).save(tmp_path / "day" / name)
    (tmp_path / "day" / "c_sweep").mkdir()
    (tmp_path / "day" / "c_sweep" / "sweep.json").write_text("another program's")
    assert find_sweep(tmp_path, asked) == tmp_path / "day" / "b_sweep"
    assert find_sweep(tmp_path, "never asked") is None
