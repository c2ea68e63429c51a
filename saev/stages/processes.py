"""Several processes of one job: how Lightning starts them from this one, and how they are left."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

ROOT = Path(__file__).resolve().parents[2]
LEAVING_S = 4  # less than the time between two looks of Lightning's


def processes(trainer: DictConfig) -> int:
    """How many processes the configured trainer will run."""
    return int(trainer.devices) * int(trainer.num_nodes)


def relaunchable(directory: Path) -> None:
    """Make sys.argv the command of this very job: Lightning starts further processes of a DDP run with it."""
    sys.argv[:] = [str(ROOT / "train.py"), *(str(override) for override in HydraConfig.get().overrides.task)]
    sys.modules["__main__"].__spec__ = None  # of a launcher's worker: Lightning would start that module instead
    config: Any = HydraConfig.get()
    with read_write(config), open_dict(config):
        config.run.dir = str(directory)  # of a sweep's job: its own folder; Lightning passes it on


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
