"""Several processes of one job: the command by which Lightning starts them from this one."""

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

ROOT = Path(__file__).resolve().parents[2]


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
