"""saev train: check the configuration, build the members and Lightning's parts, call `saev.train`, print the results."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from saev.config.train_job import n_processes, prepare, warn_unused
from saev.progress import terminal
from saev.runs.directory import check_same, recorded_failure, results_of
from saev.runs.planning import key_of
from saev.runs.signals import in_slurm, rank

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, float]:
    """Train the configured bank; the held-out NMSE of each member.

    Everything that can be refused is refused before Lightning is imported, which takes longer than all of the checks.
    """
    directory = Path(cfg.paths.run_dir)
    configuration: Any = OmegaConf.to_container(cfg, resolve=False)
    first_process = rank() == 0
    if cfg.ckpt_path is None:
        check_same(directory, configuration)
        if (done := results_of(directory)) is not None:
            log.info("finished already: %s", directory)
            return done
    with recorded_failure(directory):
        job = prepare(cfg)
        overrides = [str(override) for override in HydraConfig.get().overrides.task]
        warn_unused(cfg, overrides, job)

        from saev.config.lightning_parts import lightning_parts
        from saev.config.processes import relaunchable
        from saev.recipes.train import train
        from saev.runs.sweep_summary import summarise_if_last
        from saev.runs.tables import print_files, relative
        from saev.visuals.tables import results_table

        if n_processes(cfg.trainer) > 1:
            relaunchable(directory)
        sizes = {"n_tokens": job.settings.n_tokens, "batch_size": job.settings.batch}
        data = instantiate(cfg.datamodule, _partial_=True)(recording=job.recording, **sizes)
        bank = train(
            data, cfg.layer, job.members, settings=job.settings, directory=directory, configuration=configuration,
            resume=cfg.ckpt_path, images=report_images(cfg, overrides), lightning=lightning_parts(cfg, directory),
        )  # fmt: skip
    if first_process:
        terminal().print(results_table(bank.results.to_dicts()))
        print_files(bank.files, f"saev evaluate {relative(directory)}")
        if in_slurm():
            summarise_if_last(directory)
    return dict(zip(bank.results["member"], bank.results["nmse"], strict=True))


def report_images(cfg: DictConfig, overrides: Sequence[str]) -> Any:
    """The images given beside dataset=, which only the report shows; None where none are given."""
    if cfg.dataset is None or not any(key_of(o) == "images" for o in overrides):
        return None
    images = instantiate(cfg.images)
    try:
        images.check()
    except ValueError as error:
        log.warning("report.html will show no photos: %s", error)
    return images
