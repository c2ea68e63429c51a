"""The Slurm jobs of a sweep: their ids by folder, and their states in the queue.

Only squeue is used: many clusters have no accounting (sacct), and the folders show how a job ended.
"""

import json
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from saev.files import write_atomically

JOBS = Path(".submitit/jobs.json")  # below a sweep's directory: folder -> Slurm's job id
TIMEOUT_S = 60  # of squeue; a busy controller is slow
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
# States of jobs that will not run again; all others are running or will run.
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip


class QueueUnavailable(ValueError):
    """squeue is missing or failed; a later try may succeed."""


def record_jobs(sweep_dir: Path, jobs: Mapping[str, str]) -> None:
    """Add the Slurm job id of each folder to jobs.json, in one step."""
    path = sweep_dir / JOBS
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({**submitted(sweep_dir), **jobs}, indent=1).encode())


def submitted(sweep_dir: Path) -> dict[str, str]:
    """The newest Slurm job id of each folder of a sweep; empty where nothing was submitted."""
    path = sweep_dir / JOBS
    return json.loads(path.read_text()) if path.is_file() else {}


def states(ids: Collection[str]) -> dict[str, str]:
    """The state (PENDING, RUNNING, CANCELLED, ...) of each job that Slurm still lists: until minutes after its end.

    Raises QueueUnavailable where squeue is missing or fails.
    """
    if not ids:
        return {}
    if shutil.which("squeue") is None:
        raise QueueUnavailable(
            f"squeue is not on this machine, jobs {', '.join(sorted(ids))} are in its queue: run this where Slurm is, or, if none of "
            f"them is running any more, delete {JOBS} in the sweep's directory."
        )
    arrays = sorted({job.partition("_")[0] for job in ids})
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={','.join(arrays)}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise QueueUnavailable(f"squeue has not answered for {TIMEOUT_S} s: try again later.") from None
    if (
        answer.returncode and "Invalid job id" not in answer.stderr
    ):  # its message for a single id that it no longer lists
        raise QueueUnavailable(f"squeue failed ({answer.stderr.strip()}): try again later.")
    states = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if line.strip())
    return {job: states[job] for job in ids if job in states}
