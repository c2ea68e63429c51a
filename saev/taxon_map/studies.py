"""What is compared: a dictionary, images of a recording, their taxa and groups; refusals before codes are read."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Int64

from saev.codes.encoding import DENSE, density
from saev.contrasts.conditions import holds, parse, texts_of
from saev.images.tables import shortened
from saev.probing.image_tables import joined
from saev.saved import Dictionaries, Recording, SavedDictionary, find_dictionaries, select_tokens
from saev.shards import ActivationStore
from saev.shards.selected_tokens import Selection
from saev.taxon_map.ranks import ranks_of
from saev.taxon_map.settings import CLUSTER, MapSettings
from saev.taxon_map.statistics import LEVEL
from saev.taxon_map.tree import Tree, group_leaves, tree_of

log = logging.getLogger(__name__)
MOST_DENSE = 0.5  # fraction of codes that are not 0: beyond, as in k-means and PCA, latents fire everywhere
FEWEST = 8  # images: fewer say nothing of halves and permutations


@dataclasses.dataclass(frozen=True)
class Study:
    """A dictionary, the tokens of the images it is compared on, and the images' taxa (None: clusters) and groups."""

    one: SavedDictionary
    selection: Selection
    tree: Tree | None
    group: Int64[np.ndarray, " images"]
    names: Mapping[int, str]  # of annotated latents


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
    for name, n in (
        ("permutations", settings.permutations),
        ("searches", settings.searches if settings.n_coalition else 0),
    ):
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
