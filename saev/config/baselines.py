"""From a configuration of `saev fit` to its fitters, each composed as if it were the only one."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from saev.baselines.fitter import Fitter
from saev.config.members import check_shared, variants_of
from saev.config.values import check_values
from saev.runs import planning


@dataclasses.dataclass(frozen=True)
class PlannedFit:
    """A baseline before its data is known."""

    name: str
    fitter: Fitter
    settings: dict[str, Any]  # root keys of planning.PER_BASELINE that it has; `baseline` as chosen
    arguments: dict[str, Any]  # of the fitter, but for lists


def plan_fitters(cfg: DictConfig) -> list[PlannedFit]:
    """The baselines that the configuration's `variants` and its command line ask for, at least one.

    ValueError names the variant at fault.
    """
    task, base, variants = variants_of(cfg, "baseline")
    names = shorter([name for name, _ in variants])
    planned = [_planned(cfg, name, base, variant) for name, (_, variant) in zip(names, variants, strict=True)]
    for override in dict.fromkeys([*task, *(override for _, variant in variants for override in variant)]):
        key = planning.key_of(override)
        if key in planning.PER_BASELINE and not any(key in plan.settings for plan in planned):
            kinds = ", ".join(dict.fromkeys(plan.settings["baseline"] for plan in planned))
            hint = "; PCA's numbers are baseline.k=[...]" if key == "k" else ""
            raise ValueError(f"{override} has no effect: baseline={kinds} has no {key}{hint}: drop it.")
    return planned


def shorter(names: Sequence[str]) -> list[str]:
    """The names without the word that all settings share, and without PCA's list of k, which its dictionaries tell.

    >>> shorter(["baseline=kmeans", "baseline=pca,baseline.k=_1,4_", "n_latents=8"])
    ['kmeans', 'pca', 'n_latents=8']
    """
    short = [re.sub(r"baseline[.=]", "", name) for name in names]
    shortest = [re.sub(r",k=_.*?_", "", name) for name in short]
    return shortest if len(set(shortest)) == len(names) else short


def _planned(cfg: DictConfig, name: str, base: list[str], variant: list[str]) -> PlannedFit:
    try:
        composed = compose(str(HydraConfig.get().job.config_name), [*base, *variant], return_hydra_config=True)
        check_values(composed)
        fitter = instantiate(composed.baseline, _convert_="all")
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, ValueError) else error
        raise ValueError(f"variant {variant}: {cause}") from error
    check_shared(cfg, composed, variant)
    text = OmegaConf.to_yaml(composed.baseline, resolve=False)
    used = {key: composed[key] for key in planning.PER_BASELINE if f"${{{key}}}" in text}
    given = OmegaConf.to_container(composed.baseline, resolve=True)
    assert isinstance(given, dict)
    arguments = {str(key): value for key, value in given.items() if key != "_target_" and not isinstance(value, list)}
    return PlannedFit(name, fitter, {"baseline": composed.hydra.runtime.choices["baseline"], **used}, arguments)
