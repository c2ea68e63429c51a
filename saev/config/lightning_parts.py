"""Lightning's objects from a configuration: trainer, optimiser, callbacks, and the loggers of each member."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict

from saev.config.train_job import n_processes
from saev.runs.directory import run_id
from saev.runs.ledger import FILE as SWEEP


def lightning_parts(cfg: DictConfig, directory: Path) -> Any:
    """The LightningParts that conf/trainer, conf/optimiser, conf/callbacks and conf/logger name; a null callback is left out."""
    from saev.recipes.trainer import LightningParts  # needs the clone

    return LightningParts(
        trainer=functools.partial(instantiate, cfg.trainer),
        optimiser=instantiate(cfg.optimiser),
        callbacks=[callback for callback in instantiate(cfg.callbacks).values() if callback is not None],
        loggers=functools.partial(member_loggers, cfg, directory),
        processes=n_processes(cfg.trainer),
        split_members=OmegaConf.select(cfg.trainer, "strategy.split") == "members",
    )


def member_loggers(cfg: DictConfig, directory: Path, member: str) -> Sequence[Logger]:
    """New instances of the configured loggers for one member."""
    group, job = group_and_job(directory)
    with open_dict(cfg):
        cfg.member = member
        cfg.paths.run_name = group
        cfg.paths.member_name = f"{job}/{member}" if job else member
        # the same after resuming, so that W&B continues the run
        cfg.paths.member_id = hashlib.sha256(f"{run_id(directory)}/{member}".encode()).hexdigest()[:12]
    return list(instantiate(cfg.logger).values())


def group_and_job(directory: Path) -> tuple[str, str]:
    """(the name that groups the members' loggers: the sweep or the run, by date; the job's name within its sweep)."""
    if (directory.parent / SWEEP).is_file():
        return "/".join(directory.parts[-3:-1]), directory.name.partition("_")[2]
    return "/".join(directory.parts[-2:]), ""
