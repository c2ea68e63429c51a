"""Silence Lightning's own messages, and name and end the processes that it started."""

import contextlib
import logging
import os
import signal
import subprocess
import warnings
from collections.abc import Sequence

import lightning as L
import torch

FAILED_S = 2.0  # for a process that has broken a collective to end
LEAVING_S = 1.0  # for the others, when this one is done: they write nothing. Lightning checks them every 5 s


def quieten_lightning() -> None:
    """Suppress Lightning's advertisements, device lists, and warnings that do not apply here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*isinstance\(treespec, LeafSpec\).* is deprecated",  # Lightning's own use of torch
        r".*Consider increasing the value of the `num_workers`",  # the stream has its own threads
        r".*The `srun` command is available",  # a machine with Slurm may be used without it
    ):
        warnings.filterwarnings("ignore", message)


def ended(processes: Sequence[subprocess.Popen]) -> str:
    """Which of the processes that a DDP run has started have ended with an error, e.g. "process 1 (SIGKILL)"; "" for none."""
    failed = []
    for number, process in enumerate(processes, 1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            if code := process.wait(FAILED_S):
                failed.append(f"process {number} ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})")
    return ", ".join(failed)


def started(trainer: L.Trainer) -> list[subprocess.Popen]:
    """The processes that the trainer has started for the further ranks."""
    return getattr(trainer.strategy.launcher, "procs", [])


def leave_processes(trainer: L.Trainer) -> None:
    """End a DDP run's process group and processes, so that a sweep's next job in this process can start its own.

    A thread of Lightning kills this process seconds after one of the others has failed, unless they are gone by then.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
    procs = started(trainer)
    for process in procs:
        try:
            process.wait(LEAVING_S)  # it ends with this one, but may hang after a failure
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    procs.clear()
