"""Signals on which a run saves a checkpoint, and what it does next, depending on how it was started.

| | INT | TERM | USR2 | USR1 |
|---|---|---|---|---|
| outside Slurm | stop | stop | | |
| a job of submitit (hydra/launcher=slurm) | stop | keep running | requeue | |
| any other job (sbatch) | stop | keep running | | requeue |

Slurm sends TERM before KILL to a job that it preempts or requeues, and restarts only jobs that have not exited by themselves.
Before the time limit it sends the signal of `sbatch --signal`; submitit sets USR2.
"""

import enum
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

log = logging.getLogger(__name__)
KILLED_WITHIN_S = 600  # after a requeue


class After(enum.IntEnum):
    """What a run does after saving; of several signals the largest counts."""

    NOTHING = 0
    KEEP_RUNNING = 1  # until Slurm kills the process
    REQUEUE = 2  # and leave
    STOP = 3  # the fit


def rules() -> dict[int, After]:
    """What follows each handled signal."""
    plans = {signal.SIGINT: After.STOP, signal.SIGTERM: After.KEEP_RUNNING if in_slurm() else After.STOP}
    if (number := requeue_signal()) is not None:
        plans[number] = After.REQUEUE
    return {int(number): after for number, after in plans.items()}


def in_slurm() -> bool:
    """Whether this process belongs to a Slurm job."""
    return "SLURM_JOB_ID" in os.environ


def requeue_signal() -> signal.Signals | None:
    """The signal on which this job requeues itself; None outside Slurm."""
    if "SUBMITIT_EXECUTOR" in os.environ:
        return signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
    return signal.SIGUSR1 if in_slurm() else None


def answer_slurm() -> None:
    """In a plain batch job, set the handlers that submitit sets in its jobs: requeue on USR1, ignore TERM.

    To be called early. Does nothing outside Slurm, in submitit's jobs, or outside the main thread.
    """
    if in_slurm() and "SUBMITIT_EXECUTOR" not in os.environ and in_main_thread():
        signal.signal(signal.SIGUSR1, requeue)
        signal.signal(signal.SIGTERM, keep_running)


def requeue(number: int, frame: FrameType | None) -> None:
    """Requeue this job and exit; only the first of its processes does so."""
    if rank():
        return
    # SLURM_JOB_ID of an array's first task is that of the array: it would requeue all tasks
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    answer = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    name = signal.Signals(number).name
    if answer.returncode == 0:
        log.warning("%s: job %s is back in the queue", name, job)
    else:
        log.error(
            "%s: Slurm does not put job %s back into the queue (%s); submit it again with sbatch --requeue and the same "
            "hydra.run.dir: it resumes from its checkpoint", name, job, answer.stderr.strip(),
        )  # fmt: skip
    sys.exit(128 + number)


def keep_running(number: int, frame: FrameType | None) -> None:
    """Log only: Slurm would count a job that exits now as finished."""
    log.warning("%s: running on until Slurm kills the job", signal.Signals(number).name)


def rank() -> int:
    """This process's rank in its job, as set by its launcher; 0 for a single process."""
    return int(next((os.environ[key] for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if key in os.environ), 0))


def in_main_thread() -> bool:
    """Whether signal handlers can be set here."""
    return threading.current_thread() is threading.main_thread()


class Signals:
    """Collects signals between `listen` and `release`, instead of the handlers that would act at once."""

    def __init__(self) -> None:
        self.received: dict[int, After] = {}
        self.rules: dict[int, After] = {}
        self.previous: dict[int, Any] = {}
        self.requeue: Callable[[], None] = lambda: None

    @property
    def pending(self) -> After:
        """The largest action that a signal has asked for since `take`."""
        return max(self.received.values(), default=After.NOTHING)

    def take(self) -> tuple[int | None, After]:
        """(signal, action) of the largest action asked for; clears all of them."""
        taken, self.received = self.received, {}  # a signal between the two is in `taken`
        return max(taken.items(), key=lambda item: item[1], default=(None, After.NOTHING))

    def listen(self) -> None:
        """Collect signals from now on; only the main thread receives them."""
        if not in_main_thread():
            return
        for number, after in rules().items():
            handler = signal.getsignal(number)
            if after == After.REQUEUE:
                if not callable(handler):  # no handler that requeues
                    continue
                self.requeue = functools.partial(handler, number, None)
            self.rules[number], self.previous[number] = after, handler
            signal.signal(number, self.note)

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal. After one that stops the run the earlier handlers are back: a second one stops it at once."""
        self.received[number] = after = self.rules[number]
        again = " (again: stop at once)" if after == After.STOP else ""
        log.warning("%s: saving after this step%s", signal.Signals(number).name, again)
        if after == After.STOP:
            self.release()

    def release(self) -> None:
        """Restore the handlers from before `listen`."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def leave(self) -> NoReturn:
        """Requeue the job by the handler from before `listen`, and exit; to be called in every process."""
        self.requeue()  # the first process exits here
        time.sleep(KILLED_WITHIN_S)  # another process that exits first would count as a failure of the job
        sys.exit(1)
