"""saev fit: check the configuration, build the baselines, call `saev.fit`, print the results."""

import logging
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from saev.config.fit_job import prepare
from saev.runs.directory import check_same, recorded_failure, results_of
from saev.runs.signals import in_slurm
from saev.training.settings import MAY_DIFFER

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, float]:
    """Fit the configured baselines; the held-out NMSE of each dictionary."""
    directory = Path(cfg.paths.run_dir)
    configuration: Any = OmegaConf.to_container(cfg, resolve=False)
    check_same(directory, configuration, MAY_DIFFER)
    if (done := results_of(directory)) is not None:
        log.info("finished already: %s", directory)
        return done
    with recorded_failure(directory):
        job = prepare(cfg)

        from saev.progress import terminal
        from saev.recipes.fit import fit
        from saev.runs.sweep_summary import summarise_if_last
        from saev.runs.tables import print_files, relative
        from saev.visuals.tables import evaluation_table

        data = instantiate(cfg.datamodule, _partial_=True)(recording=job.recording)
        fitted = fit(
            data, cfg.layer, job.baselines, settings=job.settings, directory=directory, configuration=configuration
        )
    rows = fitted.results.to_dicts()
    terminal().print(evaluation_table(rows))
    print_files(
        {"results": directory / "results.csv", "dictionaries": directory / "saes"},
        f"saev evaluate {relative(directory)}",
    )
    if in_slurm():
        summarise_if_last(directory)
    return {row["member"]: row["nmse"] for row in rows}
