"""saev train: plan the members, see that everything is there, record where needed; then `fitting` trains them."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.stages.members import plan_members


def run(cfg: DictConfig) -> dict[str, float]:
    """Train the configured bank; the held-out NMSE of each member.

    What can be known to go wrong is found here, before Lightning is imported, which takes longer than all of it.
    """
    planned = plan_members(cfg)
    if cfg.dataset is None:
        instantiate(cfg.record).check()
    else:
        from saev.shards import ActivationStore

        ActivationStore(cfg.dataset).resolve_layer(cfg.layer)
    from saev.stages.fitting import fit

    return fit(cfg, planned)
