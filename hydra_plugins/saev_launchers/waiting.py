"""Wait for Slurm jobs, by the results they write and by squeue; accounting (sacct) is not needed."""

import logging
import pickle
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException

from saev.runs import slurm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submitted:
    """A submitted job."""

    directory: Path  # the sweep's
    folder: str  # of the job, below it
    overrides: list[str]
    number: str  # Slurm's id
    result: Path  # what submitit writes at the job's end: ("success", JobReturn) or ("error", traceback)
    log: Path  # its stderr

    def returned(self, status: JobStatus = JobStatus.UNKNOWN, value: Any = None) -> JobReturn:
        """The job's return for Hydra."""
        job = JobReturn(self.overrides, working_dir=str(self.directory / self.folder), status=status)
        job.return_value = value
        return job

    def outcome(self) -> JobReturn | None:
        """The result that the job has written; None before it is complete."""
        try:
            kind, value = pickle.loads(self.result.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            return None
        except Exception as error:  # the pickle of an exception whose class is missing, or does not accept its message
            return self.returned(JobStatus.FAILED, self.error(f"left a result that cannot be read ({error})"))
        return value if kind == "success" else self.returned(JobStatus.FAILED, self.error(value.rstrip()))

    def lost(self, state: str | None) -> JobReturn:
        """The failure of a job that has written no result; `state` is its last state in Slurm."""
        seen = f"state {state} in Slurm" if state else "no longer in Slurm's queue"
        return self.returned(JobStatus.FAILED, self.error(f"ended without a result ({seen}){self._last_line()}"))

    def error(self, what: str) -> CompactHydraException:
        return CompactHydraException(f"error: {self.folder}: Slurm job {self.number}: {what}\n  log: {self.log}")

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n") if self.log.is_file() else []
        return next((f"; last line of its log: {line.strip()}" for line in reversed(lines) if line.strip()), "")


@dataclass
class Watch:
    """Which jobs have ended, and how."""

    jobs: Sequence[Submitted]
    lost_after_s: float
    returns: dict[str, JobReturn] = field(default_factory=dict)
    left_queue: dict[str, float] = field(
        default_factory=dict
    )  # folder -> time in s at which it was first seen to have ended

    def open(self) -> list[Submitted]:
        """The jobs that have not ended."""
        return [job for job in self.jobs if job.folder not in self.returns]

    def update(self, states: Mapping[str, str], now: float) -> None:
        """Record the jobs that have ended, given Slurm's states by job id at time `now` in seconds.

        A failure counts only once the job has left the queue: a job that was killed to be requeued may write one, too. A
        result may appear late on a shared file system, so a job counts as lost only after `lost_after_s`.
        """
        for job in self.open():
            state, outcome = states.get(job.number), job.outcome()
            if outcome is not None and outcome.status == JobStatus.COMPLETED:
                self.returns[job.folder] = outcome
            elif state is not None and state not in slurm.ENDED:
                self.left_queue.pop(job.folder, None)
            elif outcome is not None:
                self.returns[job.folder] = outcome
            elif now - self.left_queue.setdefault(job.folder, now) >= self.lost_after_s:
                self.returns[job.folder] = job.lost(state)

    def describe(self, states: Mapping[str, str]) -> str:
        """One line, e.g. "2 running, 1 pending, 1 done"."""
        names = {JobStatus.COMPLETED: "done", JobStatus.FAILED: "failed"}
        words = [states.get(job.number, "ending").lower() for job in self.open()]
        words = ["ending" if word.upper() in slurm.ENDED else word for word in words]
        counts = Counter([*sorted(words, reverse=True), *(names[of.status] for of in self.returns.values())])
        return ", ".join(f"{count} {word}" for word, count in counts.items())


def wait(jobs: Sequence[Submitted], poll_s: float, lost_after_s: float) -> list[JobReturn]:
    """The return of each job, calling squeue every `poll_s` seconds. Ctrl-C leaves the jobs running."""
    watch, logged, first = Watch(jobs, lost_after_s), "", True
    try:
        while watch.open():
            if not first:
                time.sleep(poll_s)
            first = False
            try:
                states = slurm.states([job.number for job in watch.open()])
            except slurm.QueueUnavailable as error:
                log.warning("%s Still waiting.", error)
                continue
            before = {*watch.returns}
            watch.update(states, time.monotonic())
            for folder in watch.returns.keys() - before:
                if watch.returns[folder].status == JobStatus.FAILED:
                    log.error(watch.returns[folder]._return_value)
            if (line := watch.describe(states)) != logged:
                log.info(logged := line)
    except KeyboardInterrupt:
        log.warning("stopped waiting; the jobs keep running.\n%s", commands(watch.open()))
        raise
    return [watch.returns[job.folder] for job in jobs]


def commands(jobs: Sequence[Submitted]) -> str:
    """The commands that show these jobs and cancel them."""
    numbers = " ".join(job.number for job in jobs)
    return f"  status: saev status {jobs[0].directory}\n  cancel: scancel {numbers}" if jobs else ""
