"""Slurm jobs that resume after preemption and time limits: hydra/launcher=slurm waits for them, slurm_detached does not."""

from hydra_plugins.saev_launchers.config import SlurmConf
from hydra_plugins.saev_launchers.slurm import DetachedSlurmLauncher, SlurmLauncher

__all__ = ["DetachedSlurmLauncher", "SlurmConf", "SlurmLauncher"]
