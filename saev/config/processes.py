"""The command with which Lightning starts the further processes of a job."""

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict, read_write

ROOT = Path(__file__).resolve().parents[2]


def relaunchable(directory: Path) -> None:
    """Set sys.argv to the command of this job, with which Lightning starts further processes of a DDP run."""
    sys.argv[:] = [str(ROOT / "train.py"), *(str(override) for override in HydraConfig.get().overrides.task)]
    sys.modules["__main__"].__spec__ = None  # in a launcher's worker Lightning would start the worker's module
    config: Any = HydraConfig.get()
    with read_write(config), open_dict(config):
        config.run.dir = str(directory)  # the folder of this job of a sweep; Lightning passes it on
