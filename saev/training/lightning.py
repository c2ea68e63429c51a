"""Lightning around our modules: its own messages silenced, and the processes that it started ended."""

import logging
import os
import subprocess
import warnings

import lightning as L
import torch

LEAVING_S = 4  # less than the time between two looks of Lightning's


def quieten_lightning() -> None:
    """Leave out what Lightning says of itself: advertisements, device lists, and warnings that do not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        r".*isinstance\(treespec, LeafSpec\).* is deprecated",  # Lightning's own use of torch
        r".*Consider increasing the value of the `num_workers`",  # the stream has its own threads
        r".*The `srun` command is available",  # a machine with Slurm may be used without it
    ):
        warnings.filterwarnings("ignore", message)


def leave_processes(trainer: L.Trainer) -> None:
    """End a DDP run's process group and processes, so that a sweep's next job in this process can start its own.

    A thread of Lightning's kills this process some seconds after a further one has failed: it has to find none.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
    procs = getattr(trainer.strategy.launcher, "procs", [])
    for process in procs:
        try:
            process.wait(LEAVING_S)  # it ends as this one does; one that failed or was left behind may hang
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    procs.clear()
