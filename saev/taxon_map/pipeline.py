"""`saev.map_latents`: which latents stand for which taxa, and the order of a heat map of images and latents.

dictionaries, recording ──prepare──▶ studies ──scoring──▶ pooled codes ──map_of──▶ counts, coalitions, order ──▶ tables
"""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int64
from scipy.sparse import csc_matrix

from saev.codes.encoding import DENSE, density
from saev.contrasts.conditions import holds, parse
from saev.device import check_device, resolve_device
from saev.images.source import ImageSource
from saev.images.tables import shortened
from saev.probing.image_tables import joined
from saev.runs.tables import write_table
from saev.saved import Dictionaries, Recording, SavedDictionary, find_dictionaries, select_tokens
from saev.scoring.images import scores_of_images
from saev.shards.selected_tokens import Selection
from saev.shards.split import groups_of
from saev.taxon_map.latent_map import LatentMap, map_of
from saev.taxon_map.page import write_page
from saev.taxon_map.ranks import Taxa, ranks_of
from saev.taxon_map.settings import CLUSTER, MapSettings
from saev.taxon_map.tables import tables_of
from saev.taxon_map.tree import Tree, group_leaves, tree_of

log = logging.getLogger(__name__)
FEWEST = 8  # images: fewer say nothing of halves and permutations


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


@dataclasses.dataclass(frozen=True)
class Study:
    """A dictionary, the tokens of the images it is compared on, and the images' taxa (None: clusters) and groups."""

    one: SavedDictionary
    selection: Selection
    tree: Tree | None
    group: Int64[np.ndarray, " images"]
    names: Mapping[int, str]  # of annotated latents


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
    maps = [map_of_study(study, settings, codes, device) for study in studies]
    parts = [tables_of(one) for one in maps]
    tables = {name: pl.concat([part[name] for part in parts], how="diagonal_relaxed") for name in parts[0]}
    pages: list[Path] = []
    if directory is not None:
        files = {
            name: write_table(Path(directory), name if name == "results" else f"map_{name}", table)
            for name, table in tables.items()
        }
        for number, (one, part) in enumerate(zip(maps, parts, strict=True), 1):
            page = Path(directory) / ("map.html" if number == 1 else f"map-{number}.html")
            try:
                pages.append(write_page(page, one, part, images, files))
            except Exception:  # the tables are written, whatever is wrong with the page
                log.exception("%s could not be written; the tables are complete", page.name)
    return MapResult(**tables, maps=tuple(maps), pages=tuple(pages))


def prepare(
    dictionaries: Dictionaries,
    recording: Recording | None,
    settings: MapSettings,
    taxonomy: str | os.PathLike | None,
    layer: int | None,
    activations: str | os.PathLike | None,
    device: str,
) -> list[Study]:
    """The study of each dictionary. ValueError for what does not fit, before codes are read."""
    clustered = settings.rows == (CLUSTER,)
    if clustered and taxonomy is not None and settings.where is None:
        raise ValueError(
            "taxonomy: no effect with rows=cluster: name its columns, rows=[family,genus], or leave it out."
        )
    studies, tables = [], {}
    for one in find_dictionaries(dictionaries):
        names = one.names()
        selection = select_tokens(one, recording, activations, layer, settings.tokens, "all")
        store = selection.store
        images = np.unique(selection.spans.example)  # images without tokens have no codes
        if new := store.location.root not in tables:
            tables[store.location.root] = store.examples if taxonomy is None else joined(store, taxonomy, "taxonomy")
        table = tables[store.location.root]
        if settings.where is not None:
            images = images[holds(parse(settings.where, "where"), table, "where")[images]]
        selection = dataclasses.replace(selection, images=images)
        if len(images) < FEWEST:
            remedy = "record more." if settings.where is None else f"widen where={settings.where}."
            raise ValueError(
                f"{store.name} has {len(images)} such images with tokens, at least {FEWEST} are needed: {remedy}"
            )
        group, tree = groups_of(store, images, settings.group), None
        if not clustered:
            taxa = ranks_of(table[images.tolist()], settings.rows)
            tree = tree_of(taxa).separating()
            if new:
                report_missing(tree, store.name, taxa)
            group_leaves(tree, group, settings.group)  # ValueError for a group of several taxa
        studies.append(Study(one, selection, tree, group, names))
    return sparse_alone(studies, device)


def report_missing(tree: Tree, name: str, taxa: Taxa) -> None:
    """Log the nodes, and how many images have no value at each rank."""
    n_images = len(tree.leaf)
    log.info("%s: %d images, %d nodes of %s", name, n_images, len(tree.nodes), ", ".join(tree.ranks))
    for rank, values in taxa.items():
        if without := values.count(None):
            log.warning(
                "%d of %d images have no %s: they come last, and count as outside its nodes", without, n_images, rank
            )


def sparse_alone(studies: Sequence[Study], device: str) -> list[Study]:
    """The studies of sparse dictionaries; others, whose latents fire on all tokens, are named. ValueError where none is left."""
    fractions = [density(study.one.load(device), study.selection, None) for study in studies]
    dense = [
        f"{s.one.name} ({f:.0%} of its codes are not 0)" for s, f in zip(studies, fractions, strict=True) if f > DENSE
    ]
    if len(dense) == len(studies):
        raise ValueError(f"dense, so that latents fire everywhere: {shortened(dense)}: name sparse dictionaries.")
    if dense:
        log.warning("dense, so that latents fire everywhere, left out: %s", shortened(dense))
    return [study for study, fraction in zip(studies, fractions, strict=True) if fraction <= DENSE]


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
