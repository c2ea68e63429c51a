"""The types of conf/hydra/launcher/slurm.yaml: submitit's keys, and those of waiting.py."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf


@dataclass
class SlurmConf(SlurmQueueConf):
    """Keys of hydra.launcher; the values are those of the YAML file."""

    poll_s: float = 5
    lost_after_s: float = 60


ConfigStore.instance().store(group="hydra/launcher", name="slurm_schema", node=SlurmConf, provider="saev_launchers")
