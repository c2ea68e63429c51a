"""A sweep on disk: which jobs it has, and how each of them stands.

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

from saev.files import write_atomically
from saev.locks import is_locked
from saev.runs import slurm
from saev.runs.planning import Job

FILE = "sweep.json"
ERROR = "error.txt"  # in a run's directory: what ended it
CONFIG, RESULTS, CHECKPOINT, LOCK = "config.yaml", "results.parquet", "checkpoints/last.ckpt", ".lock"
UNASKED = ("paths", "logger", "report", "tags", "member")  # keys that no result depends on
State = Literal["finished", "running", "queued", "failed", "interrupted", "not started"]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep, by the folder of each."""

    fingerprint: str  # of the composed configurations: the same question, however it was typed
    jobs: dict[str, Job]
    verb: str = "train"  # of the command line

    def save(self, directory: Path) -> None:
        """Write sweep.json."""
        text = json.dumps({"schema": 1, **dataclasses.asdict(self)}, indent=1)
        write_atomically(directory / FILE, text.encode())

    @classmethod
    def load(cls, directory: Path) -> "Sweep":
        """Read sweep.json; ValueError where it is missing or not one of ours."""
        path = directory / FILE
        try:
            found = json.loads(path.read_text())
            jobs = {folder: Job(**job) for folder, job in found["jobs"].items()}
            return cls(found["fingerprint"], jobs, found["verb"])
        except FileNotFoundError:
            raise ValueError(
                f"{directory}: {FILE} is missing, so this is no sweep; name a sweep's directory."
            ) from None
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no plan of a sweep ({error!r}): start the sweep again.") from error


def fingerprint(configs: Sequence[Mapping[str, Any]]) -> str:
    """sha256 (hex) of the composed configurations of all combinations, in order, but for where and how they are written."""
    asked = [{key: value for key, value in config.items() if key not in UNASKED} for config in configs]
    for config in asked:
        if isinstance(config.get("record"), Mapping):
            config["record"] = {key: value for key, value in config["record"].items() if key != "root"}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Standing:
    """How a job stands."""

    state: State
    step: int | None = None  # the last step that was written about
    note: str = ""


def standings(directory: Path, jobs: Mapping[str, Job], ask: bool = True) -> dict[str, Standing]:
    """How each job of the sweep stands, from its folder and, where it was given to Slurm, from the queue (if `ask`).

    Raises slurm.NoAnswer where that cannot be asked.
    """
    submitted = slurm.submitted(directory) if ask else {}
    queue = slurm.states(list(submitted.values()))
    return {folder: standing(directory / folder, queue.get(submitted.get(folder, ""))) for folder in jobs}


def standing(run: Path, in_queue: str | None = None) -> Standing:
    """How the run in a folder stands; `in_queue` is what Slurm calls its state, if it knows it."""
    step = last_step(run)
    if (run / RESULTS).is_file():
        return Standing("finished", step)
    if in_queue in slurm.WAITING:
        return Standing("queued", step)
    if is_locked(run / LOCK) or (in_queue is not None and in_queue not in slurm.ENDED):
        return Standing("running", step)
    if (run / ERROR).is_file():
        return Standing("failed", step, (run / ERROR).read_text().strip())
    if (run / CHECKPOINT).is_file() or step is not None:
        return Standing("interrupted", step)
    return Standing("not started")


def pending(standings: Mapping[str, Standing]) -> list[str]:
    """The jobs that have to be launched: neither finished nor under way."""
    return [job for job, found in standings.items() if found.state not in ("finished", "running", "queued")]


def left_alone(standings: Mapping[str, Standing]) -> list[str]:
    """A line for each reason for which jobs are not launched."""
    hints = {"finished": " (hydra.sweeper.rerun=true trains anew)", "running": "", "queued": ""}
    found = {state: [job for job, of in standings.items() if of.state == state] for state in hints}
    return [f"{state} already: {', '.join(jobs)}{hints[state]}" for state, jobs in found.items() if jobs]


def last_step(run: Path) -> int | None:
    """The step of the last whole line of metrics.jsonl."""
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
    """The sweeps below a folder of runs by date, the newest first."""
    found = sorted(root.glob(f"*/*/{FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return (path.parent for path in found)


def same(root: Path, fingerprint: str) -> Path | None:
    """The newest sweep below `root` that asks the same question, if there is one."""
    for directory in sweeps(root):
        try:
            if Sweep.load(directory).fingerprint == fingerprint:
                return directory
        except ValueError:  # another program's file of that name
            continue
    return None
