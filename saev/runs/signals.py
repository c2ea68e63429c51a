"""Which signals ask a training run to save, and what follows: by who started the run.

| | INT | TERM | USR2 | USR1 |
|---|---|---|---|---|
| outside Slurm | stop | stop | | |
| a job of submitit's (hydra/launcher=slurm) | stop | go on | requeue | |
| any other job (sbatch) | stop | go on | | requeue |

Slurm sends TERM ahead of KILL to what it preempts or requeues, and starts again only what did not exit by itself meanwhile.
Time limits announce themselves by the signal that `sbatch --signal` names; submitit asks for USR2.
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
KILLED_WITHIN_S = 600  # of a requeue


class After(enum.IntEnum):
    """What follows a save; of several the largest."""

    NOTHING = 0
    GO_ON = 1  # until Slurm kills the process
    REQUEUE = 2  # and leave
    STOP = 3  # the fit


def rules() -> dict[int, After]:
    """What follows each signal that is listened to."""
    plans = {signal.SIGINT: After.STOP, signal.SIGTERM: After.GO_ON if in_slurm() else After.STOP}
    if (number := requeue_signal()) is not None:
        plans[number] = After.REQUEUE
    return {int(number): after for number, after in plans.items()}


def in_slurm() -> bool:
    """Whether this process belongs to a Slurm job."""
    return "SLURM_JOB_ID" in os.environ


def requeue_signal() -> signal.Signals | None:
    """The signal by which this job is told to put itself back into the queue; None where nobody would send one."""
    if "SUBMITIT_EXECUTOR" in os.environ:
        return signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
    return signal.SIGUSR1 if in_slurm() else None


def answer_slurm() -> None:
    """From now on do in a plain batch job what submitit's handlers do in its jobs: requeue at USR1, outlast TERM.

    As early in the job as can be; nothing happens elsewhere, nor outside the main thread.
    """
    if in_slurm() and "SUBMITIT_EXECUTOR" not in os.environ and in_main_thread():
        signal.signal(signal.SIGUSR1, requeue)
        signal.signal(signal.SIGTERM, outlast)


def requeue(number: int, frame: FrameType | None) -> None:
    """Put this job back into the queue and leave; the first process does it for all."""
    if rank():
        return
    # an array's first task has the number of the whole array: by that all its tasks would start again
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    answer = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    name = signal.Signals(number).name
    if answer.returncode == 0:
        log.warning("%s: job %s is back in the queue", name, job)
    else:
        log.error(
            "%s: Slurm does not put job %s back into the queue (%s); submit it again with sbatch --requeue and the same "
            "hydra.run.dir: it goes on from its checkpoint", name, job, answer.stderr.strip(),
        )  # fmt: skip
    sys.exit(128 + number)


def outlast(number: int, frame: FrameType | None) -> None:
    """Stay: Slurm would take a job that exits now for finished."""
    log.warning("%s: going on until Slurm kills the job", signal.Signals(number).name)


def rank() -> int:
    """This process's number among those of its job, as its launcher says; 0 for a single one."""
    return int(next((os.environ[key] for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if key in os.environ), 0))


def in_main_thread() -> bool:
    """Whether handlers may be set here."""
    return threading.current_thread() is threading.main_thread()


class Signals:
    """Notes signals between `listen` and `release`, in place of those who would answer them at once."""

    def __init__(self) -> None:
        self.received: dict[int, After] = {}
        self.rules: dict[int, After] = {}
        self.previous: dict[int, Any] = {}
        self.requeue: Callable[[], None] = lambda: None

    @property
    def pending(self) -> After:
        """The most that signals ask for since `take`."""
        return max(self.received.values(), default=After.NOTHING)

    def take(self) -> tuple[int | None, After]:
        """The signal that asks for the most, and what that is; then forget all of them."""
        taken, self.received = self.received, {}  # one that comes between the two is in `taken`
        return max(taken.items(), key=lambda item: item[1], default=(None, After.NOTHING))

    def listen(self) -> None:
        """Note signals from now on, where this is the main thread: elsewhere there are none to note."""
        if not in_main_thread():
            return
        for number, after in rules().items():
            handler = signal.getsignal(number)
            if after == After.REQUEUE:
                if not callable(handler):  # nobody here who could
                    continue
                self.requeue = functools.partial(handler, number, None)
            self.rules[number], self.previous[number] = after, handler
            signal.signal(number, self.note)

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Remember a signal. One that stops the run ends the noting: the second stops it at once."""
        self.received[number] = after = self.rules[number]
        again = " (again: stop at once)" if after == After.STOP else ""
        log.warning("%s: saving after this step%s", signal.Signals(number).name, again)
        if after == After.STOP:
            self.release()

    def release(self) -> None:
        """Let signals be answered as before `listen`."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def leave(self) -> NoReturn:
        """Requeue the job by whoever would have done so without us, and exit; call it in every process."""
        self.requeue()  # the first process exits here
        time.sleep(KILLED_WITHIN_S)  # ending first, another one might be taken for the job's failure
        sys.exit(1)
