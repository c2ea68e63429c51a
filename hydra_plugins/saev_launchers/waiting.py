"""Waiting for Slurm's jobs by the results they leave and by squeue, which every cluster has; accounting is not needed."""

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
    """A job that Slurm has."""

    directory: Path  # the sweep's
    folder: str  # the job's own, below it
    overrides: list[str]
    number: str  # Slurm's id
    result: Path  # what submitit writes at the job's end: ("success", JobReturn) or ("error", traceback)
    log: Path  # its stderr

    def returned(self, status: JobStatus = JobStatus.UNKNOWN, value: Any = None) -> JobReturn:
        """What Hydra is told of the job."""
        where = str(self.directory / self.folder)
        return JobReturn(overrides=self.overrides, working_dir=where, status=status, _return_value=value)

    def outcome(self) -> JobReturn | None:
        """What the job itself has left; None while there is nothing (whole) yet."""
        try:
            kind, value = pickle.loads(self.result.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            return None
        except Exception as error:  # of an exception whose class is not here, or cannot be made from its message
            return self.returned(JobStatus.FAILED, self.error(f"left a result that cannot be read ({error})"))
        return value if kind == "success" else self.returned(JobStatus.FAILED, self.error(value.rstrip()))

    def lost(self, state: str | None) -> JobReturn:
        """The failure of a job that has left nothing; `state` is Slurm's last word about it."""
        said = f"Slurm says {state}" if state else "Slurm no longer knows it"
        return self.returned(JobStatus.FAILED, self.error(f"ended without a result ({said}){self._last_line()}"))

    def error(self, what: str) -> CompactHydraException:
        return CompactHydraException(f"error: {self.folder}: Slurm job {self.number}: {what}\n  log: {self.log}")

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n") if self.log.is_file() else []
        return next((f"; its last words: {line.strip()}" for line in reversed(lines) if line.strip()), "")


@dataclass
class Watch:
    """Which of the jobs are over, and how they ended."""

    jobs: Sequence[Submitted]
    lost_after_s: float
    over: dict[str, JobReturn] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)  # folder -> when Slurm was first seen to be done with it

    def open(self) -> list[Submitted]:
        """The jobs that are not over."""
        return [job for job in self.jobs if job.folder not in self.over]

    def look(self, states: Mapping[str, str], now: float) -> None:
        """Note which jobs are over, given Slurm's words by job id, at `now` in seconds.

        A failure counts only when Slurm is done with the job: one that was killed to be requeued may leave one, too. And
        a result may show late on a shared file system, so a job is lost only after a while.
        """
        for job in self.open():
            state, outcome = states.get(job.number), job.outcome()
            if outcome is not None and outcome.status == JobStatus.COMPLETED:
                self.over[job.folder] = outcome
            elif state is not None and state not in slurm.ENDED:
                self.ended.pop(job.folder, None)
            elif outcome is not None:
                self.over[job.folder] = outcome
            elif now - self.ended.setdefault(job.folder, now) >= self.lost_after_s:
                self.over[job.folder] = job.lost(state)

    def describe(self, states: Mapping[str, str]) -> str:
        """One line, e.g. "2 running, 1 pending, 1 done"."""
        names = {JobStatus.COMPLETED: "done", JobStatus.FAILED: "failed"}
        words = [states.get(job.number, "ending").lower() for job in self.open()]
        words = ["ending" if word.upper() in slurm.ENDED else word for word in words]
        counts = Counter([*sorted(words, reverse=True), *(names[of.status] for of in self.over.values())])
        return ", ".join(f"{count} {word}" for word, count in counts.items())


def wait(jobs: Sequence[Submitted], poll_s: float, lost_after_s: float) -> list[JobReturn]:
    """How each job ended, asking squeue every `poll_s` seconds. Ctrl-C leaves the jobs running."""
    watch, said, asked = Watch(jobs, lost_after_s), "", False
    try:
        while watch.open():
            if asked:
                time.sleep(poll_s)
            asked = True
            try:
                states = slurm.states([job.number for job in watch.open()])
            except slurm.NoAnswer as silence:
                log.warning("%s Waiting on.", silence)
                continue
            before = {*watch.over}
            watch.look(states, time.monotonic())
            for folder in watch.over.keys() - before:
                if watch.over[folder].status == JobStatus.FAILED:
                    log.error(watch.over[folder]._return_value)
            if (line := watch.describe(states)) != said:
                log.info(said := line)
    except KeyboardInterrupt:
        log.warning("no longer waiting; the jobs go on.\n%s", commands(watch.open()))
        raise
    return [watch.over[job.folder] for job in jobs]


def commands(jobs: Sequence[Submitted]) -> str:
    """How to look at these jobs later, and how to cancel them."""
    numbers = " ".join(job.number for job in jobs)
    return f"  look:   saev status {jobs[0].directory}\n  cancel: scancel {numbers}" if jobs else ""
