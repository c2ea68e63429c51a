"""saev train: plan the members and see that everything is there; then `fitting` records where needed and trains them."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.stages import checks
from saev.stages.members import plan_members
from saev.stages.standing import check_same, results_of
from saev.stages.values import check_values

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, float]:
    """Train the configured bank; the held-out NMSE of each member.

    What can be known to go wrong is found here, before Lightning is imported, which takes longer than all of it.
    """
    directory = Path(cfg.paths.run_dir)
    check_values(cfg)
    if cfg.ckpt_path is None:
        check_same(cfg, directory)
        if (done := results_of(directory)) is not None:
            log.info("finished already: %s", directory)
            return done
    checks.check_trainer(cfg.trainer)
    planned = plan_members(cfg)
    recording = instantiate(cfg.record) if cfg.dataset is None else None
    checks.check_data(cfg, planned, recording)
    checks.warn_unused(cfg, [str(override) for override in HydraConfig.get().overrides.task], planned)

    from saev.stages.fitting import fit

    return fit(cfg, planned, recording)
