"""When a job counts as over, and what is said of one that died: without a cluster."""

import pickle

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException

from hydra_plugins.saev_launchers.waiting import Submitted, Watch, commands, wait
from saev.runs import slurm

DONE = ("success", JobReturn(status=JobStatus.COMPLETED, _return_value={"sae": 0.1}))
REFUSED = ("success", JobReturn(status=JobStatus.FAILED, _return_value=CompactHydraException("error: lr=-1")))


@pytest.fixture
def jobs(tmp_path):
    def job(i):
        return Submitted(
            tmp_path, f"layer={i}", [f"layer={i}"], f"12_{i}", tmp_path / f"{i}.pkl", tmp_path / f"{i}.err"
        )

    return [job(1), job(2)]


def leave(job, what):
    job.result.write_bytes(pickle.dumps(what))


def test_a_result_ends_a_job_and_the_others_continue(jobs):
    watch, states = Watch(jobs, 60), {"12_1": "RUNNING", "12_2": "PENDING"}
    watch.update(states, 0)
    assert watch.open() == jobs and watch.describe(states) == "1 running, 1 pending"
    leave(jobs[1], DONE)
    watch.update(states, 5)
    assert watch.open() == jobs[:1] and watch.returns["layer=2"].return_value == {"sae": 0.1}
    assert watch.describe(states) == "1 running, 1 done"


@pytest.mark.parametrize("state", [None, "CANCELLED", "OUT_OF_MEMORY"])
def test_a_job_that_left_nothing_is_lost_after_a_while(jobs, state):
    jobs[0].log.write_text("loading\nKilled by the OOM killer\n\n")
    watch, states = Watch(jobs[:1], 60), {"12_1": state} if state else {}
    watch.update(states, 0)
    watch.update(states, 59)
    assert watch.open() and watch.describe(states) == "1 ending"
    watch.update(states, 60)
    returned = watch.returns["layer=1"]
    assert returned.status == JobStatus.FAILED and returned.overrides == ["layer=1"]
    message = str(returned._return_value)
    for part in (
        "layer=1: Slurm job 12_1",
        state or "no longer in Slurm's queue",
        "Killed by the OOM killer",
        str(jobs[0].log),
    ):
        assert part in message
    assert watch.describe({}) == "1 failed"


def test_a_requeued_job_is_not_lost(jobs):
    watch = Watch(jobs[:1], 60)
    watch.update({}, 0)
    watch.update({"12_1": "REQUEUED"}, 30)
    watch.update({}, 61)
    assert watch.open()


def test_the_failure_of_a_job_that_is_requeued_does_not_count(jobs):
    """Guards against taking what a process says while Slurm kills it for the end of the job."""
    leave(jobs[0], REFUSED)
    watch = Watch(jobs[:1], 60)
    for state in ("RUNNING", "COMPLETING", "PENDING", "RUNNING"):
        watch.update({"12_1": state}, 0)
    assert watch.open()
    leave(jobs[0], DONE)
    watch.update({"12_1": "RUNNING"}, 0)
    assert watch.returns["layer=1"].status == JobStatus.COMPLETED


@pytest.mark.parametrize(
    ("left", "message"), [(REFUSED, "lr=-1"), (("error", "Traceback ...\nValueError: x"), "ValueError: x")]
)
def test_a_failure_is_the_jobs_own_once_slurm_is_done_with_it(jobs, left, message):
    leave(jobs[0], left)
    watch = Watch(jobs[:1], 60)
    watch.update({"12_1": "FAILED"}, 0)
    assert watch.returns["layer=1"].status == JobStatus.FAILED and message in str(
        watch.returns["layer=1"]._return_value
    )


def test_half_a_result_is_none_yet(jobs):
    jobs[0].result.write_bytes(pickle.dumps(DONE)[:20])
    jobs[1].result.write_bytes(b"")
    assert jobs[0].outcome() is None and jobs[1].outcome() is None


def test_waiting_outlasts_an_unresponsive_controller_and_ctrl_c_leaves_the_jobs(jobs, monkeypatch, caplog):
    answers = [slurm.QueueUnavailable("squeue failed (busy): try again later."), {"12_1": "RUNNING", "12_2": "RUNNING"}]

    def states(ids):
        if not answers:
            raise KeyboardInterrupt
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        leave(jobs[0], DONE)
        return answer

    monkeypatch.setattr(slurm, "states", states)
    caplog.set_level("INFO")
    with pytest.raises(KeyboardInterrupt):
        wait(jobs, 0, 60)
    assert "squeue failed (busy)" in caplog.text and "1 running, 1 done" in caplog.text
    assert f"saev status {jobs[0].directory}" in caplog.text and "scancel 12_2\n" in caplog.text
    assert "scancel 12_1 12_2" in commands(jobs)
