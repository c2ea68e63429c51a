"""saev map: dictionaries and taxa of images -> which latents stand for which taxa, and a heat map of both."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.config.build import build
from saev.progress import terminal
from saev.runs.signals import answer_slurm
from saev.runs.tables import print_files
from saev.taxon_map.pipeline import map_latents
from saev.taxon_map.settings import MapSettings
from saev.visuals.map_table import map_table


def run(cfg: DictConfig) -> list[dict[str, Any]]:
    """Compare the named dictionaries with the taxa; the rows of the results."""
    settings, directory = build(MapSettings, cfg), Path(cfg.paths.run_dir)
    for named in cfg.dictionaries:
        if not Path(named).is_dir():
            raise ValueError(f"{named} is not there: give finished runs, sweeps or dictionaries.")
    images = instantiate(cfg.images) if cfg.get("images") is not None else None
    answer_slurm()
    result = map_latents(
        list(cfg.dictionaries), cfg.dataset, settings, taxonomy=cfg.taxonomy, layer=cfg.layer, directory=directory,
        activations=cfg.paths.activations, codes=cfg.codes, device=str(cfg.device), images=images,
    )  # fmt: skip
    for one in result.maps:
        terminal().print(map_table(result.results.filter(member=one.name)))
    files = {"results": directory / "results.csv", "nodes": directory / "map_nodes.parquet"}
    print_files(
        files | {"page" if len(result.pages) == 1 else page.stem: page for page in result.pages}, "open it in a browser"
    )
    return result.results.to_dicts()
