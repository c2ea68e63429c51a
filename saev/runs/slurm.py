"""What Slurm knows of a sweep's jobs: which job each folder was given to, and what the queue says of it.

squeue alone is asked: many clusters have no accounting (sacct), and the folders themselves say how a job ended.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

JOBS = Path(".submitit/jobs.json")  # below a sweep's directory: folder -> Slurm's job id
ANSWER_S = 60  # a busy controller takes its time
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
# What squeue still tells of jobs that will not run again; all other words mean that something is under way or to come.
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip


class NoAnswer(ValueError):
    """squeue could not say how the jobs stand; asking later may help."""


def note(sweep_dir: Path, jobs: Mapping[str, str]) -> None:
    """Write down which Slurm job each folder was given to, in place of an earlier one; whole, or not at all."""
    path = sweep_dir / JOBS
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({**submitted(sweep_dir), **jobs}, indent=1))
    os.replace(temporary, path)


def submitted(sweep_dir: Path) -> dict[str, str]:
    """The newest Slurm job id of each folder of a sweep; empty where nothing was given to Slurm."""
    path = sweep_dir / JOBS
    return json.loads(path.read_text()) if path.is_file() else {}


def states(ids: Collection[str]) -> dict[str, str]:
    """Slurm's word (PENDING, RUNNING, CANCELLED, ...) for each of the jobs that it still knows.

    Slurm forgets a job some minutes after its end. Raises NoAnswer where there is no squeue, or it fails.
    """
    if not ids:
        return {}
    if shutil.which("squeue") is None:
        raise NoAnswer(
            f"there is no squeue here to ask for jobs {', '.join(sorted(ids))}: go on where Slurm is, or, if none of them is "
            f"under way any more, delete {JOBS} in the sweep's directory."
        )
    arrays = sorted({job.partition("_")[0] for job in ids})
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={','.join(arrays)}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"squeue has not answered for {ANSWER_S} s: try again later.") from None
    if answer.returncode and "Invalid job id" not in answer.stderr:  # what it says of a single id that it has forgotten
        raise NoAnswer(f"squeue failed ({answer.stderr.strip()}): try again later.")
    found = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if line.strip())
    return {job: found[job] for job in ids if job in found}
