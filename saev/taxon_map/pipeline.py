"""`saev.map_latents`: which latents stand for which taxa, and the order of a heat map of images and latents.

dictionaries, recording ──prepare──▶ studies ──scoring──▶ pooled codes ──map_of──▶ counts, coalitions, order ──▶ tables
"""

import dataclasses
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import csc_matrix

from saev.device import check_device, resolve_device
from saev.images.source import ImageSource
from saev.runs.tables import write_table
from saev.saved import Dictionaries, Recording
from saev.scoring.images import scores_of_images
from saev.taxon_map.latent_map import LatentMap, map_of
from saev.taxon_map.page import write_page
from saev.taxon_map.settings import MapSettings
from saev.taxon_map.studies import Study, prepare
from saev.taxon_map.tables import tables_of

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MapResult:
    """Tables of `saev.map_latents`, the maps of each dictionary, and their pages, where a directory was given.

    `results` has a row per dictionary and node; `nodes` one per latent and node, for the best latents and those above the null;
    `coalitions` one per node; `images` and `latents` the rows and columns of the heat maps.
    """

    results: pl.DataFrame
    nodes: pl.DataFrame
    coalitions: pl.DataFrame
    images: pl.DataFrame
    latents: pl.DataFrame
    maps: tuple[LatentMap, ...]
    pages: tuple[Path, ...]


def map_latents(
    dictionaries: Dictionaries,
    recording: Recording | None,
    settings: MapSettings,
    *,
    taxonomy: str | os.PathLike | None = None,
    layer: int | None = None,
    directory: str | os.PathLike | None = None,
    activations: str | os.PathLike | None = None,
    codes: str | os.PathLike | None = None,
    images: ImageSource | None = None,
    device: str = "auto",
) -> MapResult:
    """Compare the images on which each latent fires with the taxa of the images, from the highest rank to the lowest.

    Args:
        dictionaries: directories of dictionaries, runs or sweeps, or name -> dictionary in memory.
        recording, layer: the activations; None: those that each dictionary was trained on.
        taxonomy: a csv of ranks by class or by image, for ranks that the recording does not have (saev/probing/image_tables.py).
        directory: where tables and pages are written; None: nowhere.
        activations: the folder of recordings where `recording` is None; None: $SAEV_OUTPUTS/activations.
        codes: the folder of codes, which are read where they are there; None: $SAEV_OUTPUTS/codes.
        images: the images that were recorded; None: pages without photos.

    Raises ValueError for what does not fit, before activations are read.
    """
    check_device(device)
    device = resolve_device(device)
    studies = prepare(dictionaries, recording, settings, taxonomy, layer, activations, device)
    if images is not None:
        images.check()
        for store in {one.selection.store.location.root: one.selection.store for one in studies}.values():
            images.indices(store.examples["path"].to_list(), store.name)
    maps = maps_of_studies(studies, settings, codes, device)
    parts = [tables_of(one) for one in maps]
    tables = {name: pl.concat([part[name] for part in parts], how="diagonal_relaxed") for name in parts[0]}
    pages: list[Path] = []
    if directory is not None:
        files = {
            name: write_table(Path(directory), name if name == "results" else f"map_{name}", table)
            for name, table in tables.items()
        }
        for page in Path(directory).glob("map*.html"):  # of an earlier run
            if re.fullmatch(r"map(-\d+)?\.html", page.name):
                page.unlink()
        linked = files | {f"{name} (csv)": file.with_suffix(".csv") for name, file in files.items()}
        for number, (one, part) in enumerate(zip(maps, parts, strict=True), 1):
            page = Path(directory) / ("map.html" if number == 1 else f"map-{number}.html")
            try:
                pages.append(write_page(page, one, part, images, linked))
            except Exception:  # the tables are written, whatever is wrong with the page
                log.exception("%s could not be written; the tables are complete", page.name)
    return MapResult(**tables, maps=tuple(maps), pages=tuple(pages))


def maps_of_studies(
    studies: Sequence[Study], settings: MapSettings, codes: str | os.PathLike | None, device: str
) -> list[LatentMap]:
    """The maps; a dictionary that cannot be compared is left out with a warning. ValueError where none is left."""
    maps: list[LatentMap] = []
    for study in studies:
        try:
            maps.append(map_of_study(study, settings, codes, device))
        except ValueError as error:
            if len(studies) == 1:
                raise
            log.warning("left out: %s", error)
    if not maps:
        raise ValueError("no dictionary could be compared; the warnings above say why.")
    return maps


def map_of_study(study: Study, settings: MapSettings, codes: str | os.PathLike | None, device: str) -> LatentMap:
    """Pool the codes of a dictionary, and compare them with the taxa. ValueError for codes that are not finite."""
    one, selection = study.one, study.selection
    scores = scores_of_images(
        [one], {}, {"recorded": selection}, settings.pool, codes=codes, batch_size=settings.batch_size, device=device
    )[0][one.name]["recorded"]
    pooled = csc_matrix(scores)
    if not np.isfinite(pooled.data).all():
        raise ValueError(f"{one.name}: its codes on {selection.store.name} are not finite: evaluate or train it again.")
    return map_of(one.name, selection, pooled, study.tree, study.group, settings, study.names)
