"""From a train configuration to the members of its bank, each composed as if it were the only one."""

import dataclasses
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from saev.config.values import check_values
from saev.nn import Member
from saev.runs import planning

GROUPS = ("sae", "objective", "auxk", "decoder")  # what is built for one SAE


@dataclasses.dataclass(frozen=True)
class Planned:
    """A member before its data is known: what to build, and the settings it was given."""

    spec: Member
    settings: dict[str, Any]  # root keys of planning.PER_SAE, resolved; `sae`, `objective` and `decoder` as choices


def plan_members(cfg: DictConfig) -> list[Planned]:
    """The members that the configuration's `variants` and its command line ask for, at least one.

    Each variant is composed anew from the job's own overrides, so a variant may choose groups (`sae=topk`) and set any
    key of a single SAE. ValueError names the variant at fault.
    """
    task, base, variants = variants_of(cfg, "sae")
    name = str(HydraConfig.get().job.config_name)
    return [_planned(cfg, member, name, base, variant, task) for member, variant in variants]


def variants_of(cfg: DictConfig, group: str) -> tuple[list[str], list[str], list[tuple[str, list[str]]]]:
    """(the job's overrides, those without `variants`, the name and overrides of each member).

    `group` says what a single member is: it is called by its choice of that (sae=topk).
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


def _planned(
    cfg: DictConfig, member: str, config: str, base: list[str], variant: list[str], task: list[str]
) -> Planned:
    try:
        composed = compose(config, [*base, *variant], return_hydra_config=True)
        choices = composed.hydra.runtime.choices
        check_values(composed)
        sparsifier, objective, auxk, decoder = (instantiate(composed[key]) for key in GROUPS)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, ValueError) else error
        raise ValueError(f"variant {variant}: {cause}") from error
    check_shared(cfg, composed, variant)
    _check_used(composed, choices["sae"], [*task, *variant])
    settings = {key: composed[key] for key in planning.PER_SAE if key not in GROUPS}
    used = _references(composed)
    settings = {
        key: value
        for key, value in settings.items()
        if key not in ("sparsity", "l0_target", "k") or f"${{{key}}}" in used
    }
    spec = Member(
        name=member,
        sparsifier=sparsifier,
        objective=objective,
        auxk=auxk,
        lr=composed.lr,
        seed=composed.seed,
        d_sae=composed.d_sae,
        expansion=composed.expansion,
        init=composed.init,
        b_dec=composed.b_dec,
        decoder=decoder,
    )
    return Planned(spec, {**{key: choices[key] for key in ("sae", "objective", "decoder")}, **settings})


def check_shared(cfg: DictConfig, composed: DictConfig, variant: list[str]) -> None:
    """ValueError where a variant changes something that all members of a job share."""

    def shared(config: DictConfig) -> dict[str, Any]:
        plain = OmegaConf.to_container(config, resolve=False)
        assert isinstance(plain, dict)
        return {str(k): v for k, v in plain.items() if k not in (*planning.PER_MEMBER, "variants", "hydra")}

    ours, theirs = shared(cfg), shared(composed)
    changed = sorted(key for key in ours if ours[key] != theirs.get(key))
    if changed:
        raise ValueError(
            f"variant {variant} changes {', '.join(changed)}, which all members of a job share: sweep over it instead "
            f"(-m {changed[0]}=a,b makes a job of each)."
        )


def _references(composed: DictConfig) -> str:
    """The unresolved text of what makes up one SAE."""
    return "".join(OmegaConf.to_yaml(composed[key], resolve=False) for key in GROUPS)


def _check_used(composed: DictConfig, sae: str, overrides: list[str]) -> None:
    """ValueError where `k`, `sparsity` or `l0_target` was asked for and the architecture does not have it."""
    used = _references(composed)
    penalised = "sae=relu, gated or jumprelu"
    for key, remedy in (("k", "sae=topk or batchtopk"), ("sparsity", penalised), ("l0_target", penalised)):
        asked = [override for override in overrides if override.lstrip("+").startswith(f"{key}=")]
        if asked and f"${{{key}}}" not in used:
            by_itself = any(override.startswith(f"sae.{key}=") for override in overrides)
            why = f"sae.{key} is set by itself" if by_itself else f"sae={sae} has none"
            raise ValueError(f"{asked[-1]} has no effect, {why}: drop it{'' if by_itself else f', or use {remedy}'}.")
    if composed.d_sae is not None and any(override.startswith("expansion=") for override in overrides):
        raise ValueError(
            f"expansion={composed.expansion:g} has no effect beside d_sae={composed.d_sae}: drop one of them."
        )
