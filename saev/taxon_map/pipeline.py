"""`saev.map_latents`: which latents stand for which taxa, and the order of a heat map of images and latents.

dictionaries, recording ──prepare──▶ studies ──scoring──▶ pooled codes ──map_of──▶ counts, coalitions, order ──▶ tables
"""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int64
from scipy.sparse import csc_matrix

from saev.codes.encoding import DENSE, density
from saev.contrasts.conditions import holds, parse, texts_of
from saev.device import check_device, resolve_device
from saev.images.source import ImageSource
from saev.images.tables import shortened
from saev.probing.image_tables import joined
from saev.runs.tables import write_table
from saev.saved import Dictionaries, Recording, SavedDictionary, find_dictionaries, select_tokens
from saev.scoring.images import scores_of_images
from saev.shards import ActivationStore
from saev.shards.selected_tokens import Selection
from saev.taxon_map.latent_map import LatentMap, map_of
from saev.taxon_map.page import write_page
from saev.taxon_map.ranks import ranks_of
from saev.taxon_map.settings import CLUSTER, MapSettings
from saev.taxon_map.statistics import LEVEL
from saev.taxon_map.tables import tables_of
from saev.taxon_map.tree import Tree, group_leaves, tree_of

log = logging.getLogger(__name__)
MOST_DENSE = 0.5  # fraction of codes that are not 0: beyond, as in k-means and PCA, latents fire everywhere
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
    report_settings(settings, clustered)
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
            tables[store.location.root] = table_of(store, settings, taxonomy)
        table = tables[store.location.root]
        if settings.where is not None:
            images = images[holds(parse(settings.where, "where"), table, "where")[images]]
        selection = dataclasses.replace(selection, images=images)
        if len(images) < FEWEST:
            remedy = "record more." if settings.where is None else f"widen where={settings.where}."
            raise ValueError(
                f"{store.name} has {len(images)} such images with tokens, at least {FEWEST} are needed: {remedy}"
            )
        group, tree = np.arange(len(images)), None
        if not clustered:
            group = groups_of(table, images, settings.group)
            taxa = ranks_of(table[images.tolist()], settings.rows)
            tree = tree_of(taxa).separating()
            if new:
                report_missing(tree, store.name)
            group_leaves(tree, group, settings.group)  # ValueError for a group of several taxa
        studies.append(Study(one, selection, tree, group, names))
    return sparse_alone(studies, device)


def table_of(store: ActivationStore, settings: MapSettings, taxonomy: str | os.PathLike | None) -> pl.DataFrame:
    """The columns of the recording, and those of the taxonomy that it does not have."""
    if taxonomy is None:
        return store.examples
    conditions = () if settings.where is None else parse(settings.where, "where")
    used = {*settings.rows, *(each.column for each in conditions), *([settings.group] if settings.group else [])}
    return joined(store, taxonomy, "taxonomy", used=used)


def groups_of(
    table: pl.DataFrame, images: Int64[np.ndarray, " images"], column: str | None
) -> Int64[np.ndarray, " images"]:
    """A number for each of these images, from 0 on: that of its group, of the image itself where it has none (empty, NA, nan, ?)."""
    if column is None:
        return np.arange(len(images))
    texts = texts_of(table, column, f"group={column}")
    names = [f"={texts[i]}" if texts[i] else f"image {i}" for i in images.tolist()]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def report_settings(settings: MapSettings, clustered: bool) -> None:
    """Log the settings that have no effect with clusters, and numbers of permutations by which no p is at most `LEVEL`."""
    if clustered:
        given = [
            name for name in ("group", "per_node", "permutations", "n_coalition", "searches")
            if getattr(settings, name) and getattr(settings, name) != getattr(MapSettings, name)
        ]  # fmt: skip
        if given:
            log.warning("no effect with rows=cluster: %s", ", ".join(given))
        return
    for name, n in (("permutations", settings.permutations), ("searches", settings.searches)):
        if 0 < n < round(1 / LEVEL) - 1:
            log.warning("%s=%d: the smallest p is 1/%d: give at least %d", name, n, n + 1, round(1 / LEVEL) - 1)


def report_missing(tree: Tree, name: str) -> None:
    """Log the nodes, and how many images have no value at each rank or at one above it."""
    n_images = len(tree.leaf)
    log.info("%s: %d images, %d nodes of %s", name, n_images, len(tree.nodes), ", ".join(tree.ranks))
    for above, rank in enumerate(tree.ranks):
        if without := int((tree.depth <= above).sum()):
            what = f"no {rank}" + (f", or no {' or '.join(tree.ranks[:above])} above it" if above else "")
            log.warning(
                "%d of %d images have %s: they come last, and count as outside its nodes", without, n_images, what
            )


def sparse_alone(studies: Sequence[Study], device: str) -> list[Study]:
    """The studies of dictionaries whose latents fire on at most `MOST_DENSE` of the tokens; others are named. ValueError where none
    is left."""
    fractions = [density(study.one.load(device), study.selection, None) for study in studies]
    texts = [f"{s.one.name} ({f:.0%} of its codes are not 0)" for s, f in zip(studies, fractions, strict=True)]
    dense = [text for text, fraction in zip(texts, fractions, strict=True) if fraction > MOST_DENSE]
    if len(dense) == len(studies):
        raise ValueError(f"latents fire on most tokens: {shortened(dense)}: name sparse dictionaries.")
    if dense:
        log.warning("latents fire on most tokens, left out: %s", shortened(dense))
    if many := [text for text, fraction in zip(texts, fractions, strict=True) if DENSE < fraction <= MOST_DENSE]:
        log.warning(
            "latents fire on many tokens: %s: if they fire on nearly every image, raise threshold", shortened(many)
        )
    return [study for study, fraction in zip(studies, fractions, strict=True) if fraction <= MOST_DENSE]


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
