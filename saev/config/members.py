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
from saev.nn import Member
from saev.runs import planning
from saev.runs.planning import GROUPS


def plan_members(cfg: DictConfig) -> list[Member]:
    """The members that the configuration's `variants` and its command line ask for, at least one.

    Each variant is composed anew from the job's own overrides, so a variant may choose groups (`sae=topk`) and set any
    key of a single SAE. ValueError names the variant at fault.
    """
    task, base, variants = variants_of(cfg, "sae")
    compose = composer(cfg, base, task)
    return [plan_member(cfg, name, compose, variant, task) for name, variant in variants]


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
    cfg: DictConfig, name: str, compose: Callable[[list[str]], DictConfig], variant: list[str], task: list[str]
) -> Member:
    """The member of one variant; ValueError for a setting that is wrong, shared by all members, or without effect."""
    try:
        composed = compose(variant)
        built = {field: instantiate(composed[group]) for group, field in GROUPS.items()}
        scalars = {f.name: composed[f.name] for f in dataclasses.fields(Member) if f.name not in (*built, "name")}
        member = Member(name=name, **built, **scalars)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, ValueError) else error
        raise ValueError(f"variant {variant}: {cause}") from error
    check_shared(cfg, composed, variant)
    check_used(composed, member, [*task, *variant])
    return member


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


def check_used(composed: DictConfig, member: Member, overrides: list[str]) -> None:
    """ValueError for an override of a root key that this member's sparsifier does not have or does not take from the root."""
    sae = (composed.get("hydra") or HydraConfig.get()).runtime.choices["sae"]
    penalised = "sae=relu, gated or jumprelu"
    for key, remedy in (("k", "sae=topk or batchtopk"), ("sparsity", penalised), ("l0_target", penalised)):
        asked = [override for override in overrides if override.lstrip("+").startswith(f"{key}=")]
        if not asked or (key in composed.sae and OmegaConf.is_interpolation(composed.sae, key)):
            continue
        if key in composed.sae:
            raise ValueError(f"{asked[-1]} has no effect, sae.{key} is set by itself: drop it.")
        raise ValueError(f"{asked[-1]} has no effect, sae={sae} has none: drop it, or use {remedy}.")
    if composed.d_sae is not None and any(override.startswith("expansion=") for override in overrides):
        raise ValueError(
            f"expansion={composed.expansion:g} has no effect beside d_sae={composed.d_sae}: drop one of them."
        )
