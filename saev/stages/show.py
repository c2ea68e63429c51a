"""saev show: dictionaries -> pages of the images behind their latents. Prints the pages' paths."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig

from saev.config.build import build
from saev.runs.planning import key_of
from saev.runs.tables import print_files
from saev.visuals.settings import ShowSettings
from saev.visuals.showing import show

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> list[Path]:
    """Write a page for each recording and layer that the dictionaries read; the pages."""
    several = {
        key: tuple(cfg[key]) if isinstance(cfg[key], ListConfig) else (cfg[key],)
        for key in ("latents", "classes")
        if cfg[key] is not None
    }
    settings = build(ShowSettings, cfg, **several)
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    idle = [override for override in overrides if key_of(override) == "choice"]
    if idle and (settings.latents is not None or cfg.probe is not None):
        log.warning("%s: no effect beside latents= or probe=", ", ".join(idle))
    images = instantiate(cfg.images) if cfg.get("images") is not None else None
    pages = show(
        list(cfg.dictionaries), cfg.dataset, settings, layer=cfg.layer, probe=cfg.probe, images=images,
        directory=cfg.paths.run_dir, activations=cfg.paths.activations, codes=cfg.codes, progress=True,
    )  # fmt: skip
    print_files({"page" if len(pages) == 1 else page.stem: page for page in pages}, "open it in a browser")
    return pages
