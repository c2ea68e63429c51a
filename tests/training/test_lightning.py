"""Messages about the processes of a run."""

import signal
import subprocess

import pytest

from saev.training.lightning import ended


@pytest.mark.slow
def test_processes_that_ended_are_named():
    """Guards against a killed rank of which only gloo's traceback tells."""
    procs = [subprocess.Popen(["sleep", "60"]), subprocess.Popen(["sleep", "60"]), subprocess.Popen(["false"])]
    procs[1].send_signal(signal.SIGKILL)
    assert ended(procs) == "process 2 (SIGKILL), process 3 (exit code 1)"
    procs[0].kill()
    procs[0].wait()
    assert ended([]) == ""
