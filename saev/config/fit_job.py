"""A job of `saev fit`: its baselines, each composed as if it were the only one, validated before anything slow starts."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from saev.baselines import BaselineSettings
from saev.config.build import build
from saev.config.members import check_shared, composer, variants_of
from saev.config.train_job import DataFacts, data_facts
from saev.config.unused import check_used, unused
from saev.device import check_device
from saev.runs.memory import Size, member_size
from saev.training.settings import FitSettings


class FitJob(NamedTuple):
    """What a job fits to what; `recording` makes the dataset where the configuration names none."""

    settings: FitSettings
    baselines: dict[str, BaselineSettings]
    recording: Any
    facts: DataFacts


def prepare(cfg: DictConfig, here: bool = True) -> FitJob:
    """The job of a configuration; ValueError for everything that can be refused before it starts.

    `here`: the job runs on this machine, so its device is checked.
    """
    if here:
        check_device(str(cfg.device), "device")
    if cfg.datamodule.reader == "live":
        raise ValueError(
            "datamodule.reader=live: baselines read the activations several times; record them, without datamodule.reader."
        )
    if cfg.datamodule.n_tokens is not None:
        raise ValueError(
            f"datamodule.n_tokens={cfg.datamodule.n_tokens} has no effect: baselines take whole passes; drop it, or fit on fewer "
            "tokens by subset_tokens."
        )
    settings, baselines = build(FitSettings, cfg), plan_baselines(cfg)
    recording = instantiate(cfg.record) if cfg.dataset is None else None
    return FitJob(settings, baselines, recording, data_facts(cfg.dataset, recording, cfg.layer, settings))


def member_sizes(job: FitJob) -> list[Size]:
    """The memory of each baseline."""
    width, batch_size = job.facts.d_model, job.settings.batch_size
    return [
        member_size(width, getattr(baseline, "n_latents", width), batch_size) for baseline in job.baselines.values()
    ]


def plan_baselines(cfg: DictConfig) -> dict[str, BaselineSettings]:
    """The baselines that the configuration's `variants` and its command line ask for, by name, at least one.

    ValueError names the variant at fault, or a setting that no baseline uses.
    """
    task, base, variants = variants_of(cfg, "baseline")
    compose = composer(cfg, base, task)
    planned = [plan_baseline(cfg, compose, variant) for _, variant in variants]
    check_used(
        [([*task, *o], unused(composed, [*task, *o])) for (_, o), (composed, _) in zip(variants, planned, strict=True)]
    )
    names = shortened([name for name, _ in variants])
    return {name: baseline for name, (_, baseline) in zip(names, planned, strict=True)}


def plan_baseline(
    cfg: DictConfig, compose: Callable[[list[str]], DictConfig], variant: list[str]
) -> tuple[DictConfig, BaselineSettings]:
    """(configuration, settings) of one variant."""
    try:
        composed = compose(variant)
        baseline = instantiate(composed.baseline, _convert_="all")
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, ValueError) else error
        raise ValueError(f"variant {variant}: {cause}") from error
    check_shared(cfg, composed, variant)
    return composed, baseline


def shortened(names: Sequence[str]) -> list[str]:
    """The names without "baseline=", and without PCA's list of k, which the names of its dictionaries tell.

    >>> shortened(["baseline=kmeans", "baseline=pca,baseline.k=_1,4_", "n_latents=8"])
    ['kmeans', 'pca', 'n_latents=8']
    """
    short = [re.sub(r"baseline[.=]", "", name) for name in names]
    shortest = [re.sub(r",k=_.*?_", "", name) for name in short]
    return shortest if len(set(shortest)) == len(names) else short
