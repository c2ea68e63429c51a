"""saev train: plan the members and see that everything is there; then `fitting` records where needed and trains them."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from saev.config import checks
from saev.config.members import Planned, plan_members
from saev.config.values import check_values
from saev.runs.directory import check_same, recorded_failure, results_of

log = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """A run of which everything is known but how well it will do."""

    planned: list[Planned]
    recording: Any
    facts: checks.Facts


def run(cfg: DictConfig) -> dict[str, float]:
    """Train the configured bank; the held-out NMSE of each member.

    What can be known to go wrong is found here, before Lightning is imported, which takes longer than all of it.
    """
    directory = Path(cfg.paths.run_dir)
    check_values(cfg)
    if cfg.ckpt_path is None:
        check_same(directory, OmegaConf.to_container(cfg, resolve=False))  # type: ignore[arg-type]
        if (done := results_of(directory)) is not None:
            log.info("finished already: %s", directory)
            return done
    with recorded_failure(directory):
        planned, recording, _ = prepare(cfg)
        checks.warn_unused(cfg, [str(override) for override in HydraConfig.get().overrides.task], planned)

        from saev.recipes.train import fit

        return fit(cfg, planned, recording)


def prepare(cfg: DictConfig, here: bool = True) -> Prepared:
    """Everything that can be refused before anything slow starts; ValueError names the key, the value and the remedy.

    `here`: the job runs on this machine, so its devices count.
    """
    check_values(cfg)
    checks.check_trainer(cfg.trainer, here)
    planned = plan_members(cfg)
    checks.check_division(cfg, len(planned))
    recording = instantiate(cfg.record) if cfg.dataset is None else None
    facts = checks.data_facts(cfg, recording)
    checks.check_members(cfg, planned, facts)
    checks.check_probe(cfg, recording, facts)
    return Prepared(planned, recording, facts)
