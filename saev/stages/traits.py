"""saev traits: dictionaries and the traits of images -> how well single latents predict them, compared with baselines."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.checkpoint import load
from saev.config.build import build
from saev.device import check_device, resolve_device
from saev.dictionary import Dictionary
from saev.progress import terminal
from saev.runs.signals import answer_slurm
from saev.runs.tables import print_files
from saev.saved import find_dictionaries
from saev.shards import ActivationStore
from saev.stages.common import check_dictionaries, layers_of, shown_images
from saev.trait_evaluation.pipeline import TraitsResult
from saev.trait_evaluation.settings import TraitsSettings

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> list[dict[str, Any]]:
    """Evaluate the named dictionaries and the baselines; the rows of the results."""
    settings, directory = build(TraitsSettings, cfg), Path(cfg.paths.run_dir)
    check_dictionaries(cfg.dictionaries)
    saved = find_dictionaries(list(cfg.dictionaries)) if cfg.dictionaries else []
    names = {str(one.path): one.names() for one in saved}
    if cfg.traits is None:
        raise ValueError(
            "traits is not given: say where traits come from, traits=columns, table, matrix, cub200, presence or masks."
        )
    source, layers = instantiate(cfg.traits, _convert_="all"), layers_of(cfg.layer)
    source.check()
    scorers = {str(name): instantiate(scorer) for name, scorer in cfg.scorers.items()}
    check_device(str(cfg.device))
    answer_slurm()
    train = cfg.train
    if train is None:
        if not layers:
            raise ValueError(
                "layer is not given: say which blocks to record, layer=[8], or give a recording, train=DIRECTORY."
            )
        recording = instantiate(cfg.record)
        recording.check()
        train = recording.run()

    store = ActivationStore(cfg.test or train)
    images = shown_images(cfg, store, "traits.html", cfg.train is None and cfg.test is None)

    from saev.recipes.traits import traits
    from saev.visuals.traits_table import traits_table

    result = traits(
        saved or None, train, source, settings, test=cfg.test, layers=layers, scorers=scorers,
        directory=directory, codes=cfg.codes, device=cfg.device,
    )  # fmt: skip
    terminal().print(traits_table(result.results))
    files = {"results": directory / "results.csv", "traits": directory / "traits.parquet"}
    try:
        files["page"] = write_page(directory / "traits.html", result, store, images, files, str(cfg.device), names)
    except Exception:  # the tables are written, whatever is wrong with the page
        log.exception("traits.html could not be written; the tables are complete")
    print_files(files)
    return result.results.to_dicts()


def write_page(
    path: Path,
    result: TraitsResult,
    store: ActivationStore,
    images: Any,
    files: Mapping[str, Path],
    device: str,
    names: Mapping[str, Mapping[int, str]],
) -> Path:
    """Write traits.html, with photos and heat maps where there are images. `names`: of latents, by the dictionary's path."""
    from saev.visuals.traits_page import write_traits_page

    members, paths = members_of(result, device) if images is not None else {}, paths_of(result)
    return write_traits_page(
        path, result.traits, result.results, result.images, store=store, images=images, files=files, members=members,
        names={key: names.get(path, {}) for key, path in paths.items()},
        credits=[images.credits()] if images is not None else [],
    )  # fmt: skip


def members_of(result: TraitsResult, device: str) -> dict[tuple[str, int], Dictionary]:
    """The dictionaries that the page shows, by method and layer."""
    from saev.visuals.traits_page import MOST, best_methods

    paths = paths_of(result)
    if not paths:
        return {}
    shown = best_methods(result.traits).head(MOST).select("method", "layer").unique().rows()
    return {key: load(paths[key], resolve_device(device)) for key in shown if Path(paths[key]).is_dir()}


def paths_of(result: TraitsResult) -> dict[tuple[str, int], str]:
    """The folder of each dictionary, by method and layer."""
    if "dictionary" not in result.traits.columns:
        return {}
    rows = result.traits.select("method", "layer", "dictionary").unique().drop_nulls()
    return {(method, layer): path for method, layer, path in rows.iter_rows()}
