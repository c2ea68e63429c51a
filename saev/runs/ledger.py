"""A sweep on disk: its jobs and the state of each.

<sweep>/sweep.json          the plan, written before anything is launched
<sweep>/<job>/              a run's directory
<sweep>/results.parquet     the rows of all finished jobs
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from saev.files import plain_name, write_atomically
from saev.locks import is_locked
from saev.runs import slurm
from saev.runs.planning import Job

FILE = "sweep.json"
ERROR = "error.txt"  # in a run's directory: what ended it
CONFIG, RESULTS, CHECKPOINT, LOCK = "config.yaml", "results.parquet", "checkpoints/last.ckpt", ".lock"
NOT_COMPARED = ("paths", "logger", "report", "tags", "member")  # keys that change no result
State = Literal["finished", "running", "queued", "failed", "interrupted", "not started"]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep, by the folder of each."""

    fingerprint: str  # of the composed configurations, whatever was typed
    jobs: dict[str, Job]
    verb: str = "train"  # of the command line

    def save(self, directory: Path) -> None:
        """Write sweep.json."""
        text = json.dumps({"schema": 1, **dataclasses.asdict(self)}, indent=1)
        write_atomically(directory / FILE, text.encode())

    @classmethod
    def load(cls, directory: Path) -> "Sweep":
        """Read sweep.json; ValueError where it is missing or has another format."""
        path = directory / FILE
        try:
            plan = json.loads(path.read_text())
            jobs = {plain_name(folder, str(path)): Job(**job) for folder, job in plan["jobs"].items()}
            return cls(plan["fingerprint"], jobs, plan["verb"])
        except FileNotFoundError:
            raise ValueError(
                f"{directory}: {FILE} is missing, so this is no sweep; name a sweep's directory."
            ) from None
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no plan of a sweep ({error!r}): start the sweep again.") from error


def fingerprint(configs: Sequence[Mapping[str, Any]]) -> str:
    """sha256 (hex) of the composed configurations of all combinations, in order, without directories and loggers."""
    compared = [{key: value for key, value in config.items() if key not in NOT_COMPARED} for config in configs]
    for config in compared:
        if isinstance(config.get("record"), Mapping):
            config["record"] = {key: value for key, value in config["record"].items() if key != "root"}
    return hashlib.sha256(json.dumps(compared, sort_keys=True, default=str).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class JobState:
    """The state of a job."""

    state: State
    step: int | None = None  # the last step with logged metrics
    note: str = ""


def job_states(directory: Path, jobs: Mapping[str, Job], ask_slurm: bool = True) -> dict[str, JobState]:
    """The state of each job of the sweep, from its folder and, with `ask_slurm`, from the queue it was submitted to.

    Raises slurm.QueueUnavailable where squeue fails.
    """
    submitted = slurm.submitted(directory) if ask_slurm else {}
    queue = slurm.states(list(submitted.values()))
    return {folder: job_state(directory / folder, queue.get(submitted.get(folder, ""))) for folder in jobs}


def job_state(run: Path, in_queue: str | None = None) -> JobState:
    """The state of the run in a folder; `in_queue` is its state in Slurm, None for a job that is not in the queue."""
    step = last_step(run)
    if (run / RESULTS).is_file():
        return JobState("finished", step)
    if in_queue in slurm.WAITING:
        return JobState("queued", step)
    if is_locked(run / LOCK) or (in_queue is not None and in_queue not in slurm.ENDED):
        return JobState("running", step)
    if (run / ERROR).is_file():
        return JobState("failed", step, (run / ERROR).read_text().strip())
    if (run / CHECKPOINT).is_file() or step is not None:
        return JobState("interrupted", step)
    return JobState("not started")


def pending(states: Mapping[str, JobState]) -> list[str]:
    """The jobs to launch: neither finished nor running nor queued."""
    return [job for job, of in states.items() if of.state not in ("finished", "running", "queued")]


def skipped(states: Mapping[str, JobState]) -> list[str]:
    """A line per state of the jobs that are not launched."""
    hints = {"finished": " (hydra.sweeper.rerun=true trains anew)", "running": "", "queued": ""}
    by_state = {state: [job for job, of in states.items() if of.state == state] for state in hints}
    return [f"{state} already: {', '.join(jobs)}{hints[state]}" for state, jobs in by_state.items() if jobs]


def last_step(run: Path) -> int | None:
    """The step of the last complete line of metrics.jsonl."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16)))
        lines = file.read().split(b"\n")[:-1]  # the last piece is empty, or still being written
    try:
        return int(json.loads(lines[-1])["step"]) if lines else None
    except (json.JSONDecodeError, KeyError):
        return None


def sweeps(root: Path) -> Iterator[Path]:
    """The sweeps below a folder of runs by date, newest first."""
    plans = sorted(root.glob(f"*/*/{FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return (path.parent for path in plans)


def find_sweep(root: Path, fingerprint: str) -> Path | None:
    """The newest sweep below `root` with this fingerprint; None without one."""
    for directory in sweeps(root):
        try:
            if Sweep.load(directory).fingerprint == fingerprint:
                return directory
        except ValueError:  # a file of another program
            continue
    return None
