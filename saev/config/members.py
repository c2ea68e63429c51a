"""From a train configuration to the members of its bank, each composed as if it were the only one."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from saev.config.composing import Composer
from saev.config.unused import check_used, unused
from saev.nn import Member
from saev.runs import planning
from saev.runs.planning import GROUPS


def plan_members(cfg: DictConfig) -> list[Member]:
    """The members that the configuration's `variants` and its command line ask for, at least one.

    Each variant is composed anew from the job's own overrides, so a variant may choose groups (`sae=topk`) and set any
    key of a single SAE. ValueError names the variant at fault, or a setting that no member uses.
    """
    task, base, variants = variants_of(cfg, "sae")
    compose = composer(cfg, base, task)
    planned = [(variant, plan_member(cfg, name, compose, variant)) for name, variant in variants]
    check_used([([*task, *variant], unused(composed, [*task, *variant])) for variant, (composed, _) in planned])
    return [member for _, (_, member) in planned]


def variants_of(cfg: DictConfig, group: str) -> tuple[list[str], list[str], list[tuple[str, list[str]]]]:
    """(the job's overrides, those without `variants`, the name and overrides of each member).

    `group` names a single member: by its choice of that group (sae=topk).
    """
    task = [str(override) for override in HydraConfig.get().overrides.task]
    given = any(planning.key_of(override) == "variants" for override in task)
    base = [override for override in task if planning.key_of(override) != "variants"]
    stored = [list(variant) for variant in cfg.variants or []]
    variants = stored if given and stored else planning.members(stored, base)
    alone = f"{group}={HydraConfig.get().runtime.choices[group]}"
    if len(variants) == 1:
        alone = ([override for override in variants[0] if override.startswith(f"{group}=")] or [alone])[-1]
    return task, base, list(zip(planning.names(variants, alone), variants, strict=True))


def composer(cfg: DictConfig, base: list[str], task: list[str]) -> Callable[[list[str]], DictConfig]:
    """A function from a variant to its configuration: that of the job itself where the variant adds nothing to it."""
    compose_all = Composer(partial(compose, str(HydraConfig.get().job.config_name), return_hydra_config=True))
    return lambda variant: cfg if base == task and {*variant} <= {*base} else compose_all([*base, *variant])


def plan_member(
    cfg: DictConfig, name: str, compose: Callable[[list[str]], DictConfig], variant: list[str]
) -> tuple[DictConfig, Member]:
    """(configuration, member) of one variant; ValueError for a setting that is wrong or shared by all members."""
    try:
        composed = compose(variant)
        built = {field: instantiate(composed[group]) for group, field in GROUPS.items()}
        scalars = {f.name: composed[f.name] for f in dataclasses.fields(Member) if f.name not in (*built, "name")}
        member = Member(name=name, **built, **scalars)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, ValueError) else error
        raise ValueError(f"variant {variant}: {cause}") from error
    check_shared(cfg, composed, variant)
    return composed, member


def check_shared(cfg: DictConfig, composed: DictConfig, variant: list[str]) -> None:
    """ValueError where a variant changes something that all members of a job share."""

    def shared(config: DictConfig) -> dict[str, Any]:
        plain = OmegaConf.to_container(config, resolve=False)
        assert isinstance(plain, dict)
        return {str(k): v for k, v in plain.items() if k not in (*planning.PER_MEMBER, "variants", "hydra")}

    job, member = shared(cfg), shared(composed)
    changed = sorted(key for key in job if job[key] != member.get(key))
    if changed:
        raise ValueError(
            f"variant {variant} changes {', '.join(changed)}, which all members of a job share: sweep over it instead "
            f"(-m {changed[0]}=a,b makes a job of each)."
        )
