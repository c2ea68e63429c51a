"""saev train: plan the members and see that everything is there; then `fitting` records where needed and trains them."""

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.stages import checks
from saev.stages.members import plan_members
from saev.stages.values import check_values


def run(cfg: DictConfig) -> dict[str, float]:
    """Train the configured bank; the held-out NMSE of each member.

    What can be known to go wrong is found here, before Lightning is imported, which takes longer than all of it.
    """
    check_values(cfg)
    checks.check_trainer(cfg.trainer)
    planned = plan_members(cfg)
    recording = instantiate(cfg.record) if cfg.dataset is None else None
    checks.check_data(cfg, planned, recording)
    checks.warn_unused(cfg, [str(override) for override in HydraConfig.get().overrides.task], planned)

    from saev.stages.fitting import fit

    return fit(cfg, planned, recording)
