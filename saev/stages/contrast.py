"""saev contrast: dictionaries and groups of images -> which latents separate the groups, compared with baselines."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from saev.config.build import build
from saev.contrasts.pipeline import ContrastResult
from saev.contrasts.settings import ContrastSettings, Groups
from saev.device import check_device
from saev.progress import terminal
from saev.runs.signals import answer_slurm
from saev.runs.tables import print_files
from saev.saved import find_dictionaries, open_recording
from saev.shards import ActivationStore
from saev.stages.common import check_dictionaries, layers_of, shown_images

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> list[dict[str, Any]]:
    """Compare the groups by the named dictionaries and the baselines; the rows of the results."""
    settings, groups, directory = build(ContrastSettings, cfg), build(Groups, cfg), Path(cfg.paths.run_dir)
    runs = [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs)
    check_dictionaries([*cfg.dictionaries, *runs])
    check_device(str(cfg.device))
    answer_slurm()
    saved = find_dictionaries(list(cfg.dictionaries)) if cfg.dictionaries else []
    images = None
    if saved or cfg.dataset:
        store = open_recording(saved[0], cfg.dataset, cfg.paths.activations) if saved else ActivationStore(cfg.dataset)
        images = shown_images(cfg, store, "contrast.html")

    from saev.recipes.contrast import contrast
    from saev.visuals.contrast_table import contrast_table

    result = contrast(
        saved or None, groups, settings, dataset=cfg.dataset, layers=layers_of(cfg.layer), directory=directory,
        runs=runs or None, activations=cfg.paths.activations, codes=cfg.codes, device=cfg.device,
    )  # fmt: skip
    terminal().print(contrast_table(result.results))
    files = {
        name: directory / f"{name}.parquet"
        for name in ("contrast", "across", "classifier", "partners")
        if (directory / f"{name}.parquet").is_file()
    }
    files = {"results": directory / "results.csv", **files}
    try:
        files["page"] = write_page(directory / "contrast.html", result, images, files)
    except Exception:  # the tables are written, whatever is wrong with the page
        log.exception("contrast.html could not be written; the tables are complete")
    print_files(files)
    return result.results.to_dicts()


def write_page(path: Path, result: ContrastResult, images: Any, files: Mapping[str, Path]) -> Path:
    """Write contrast.html, with photos where there are images."""
    from saev.contrasts.page import write_contrast_page

    return write_contrast_page(
        path, result, images=images, credits=[images.credits()] if images is not None else [], files=files
    )
