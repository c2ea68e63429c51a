"""From dictionaries and groups of images to tables: the study of each layer, and the statistics of all of its methods.

prepare: pairs of groups, dictionaries by layer ──▶ Study ──compare: scores of images ──▶ statistics, classifiers, cards ──▶ tables
"""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from saev.contrasts.cards import Card
from saev.contrasts.groups import Pair, columns_of, pairs_of
from saev.contrasts.methods import Method, methods_of
from saev.contrasts.settings import ContrastSettings, Groups
from saev.contrasts.study import Study, images_of, sides_of
from saev.contrasts.tables import cards_of, layer_tables
from saev.device import resolve_device
from saev.runs.tables import write_table
from saev.saved import Dictionaries, Recording, find_dictionaries, open_recording
from saev.scoring.by_layer import dictionaries_by_layer, opened
from saev.shards import ActivationStore
from saev.shards.selection import per_image, select

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ContrastResult:
    """Tables of `saev.contrast`, which `directory` holds as parquet and csv.

    `contrast` has a row per layer, method, pair and latent; `results` a row per layer, method and pair; `across` a row per layer,
    method and latent that separates a pair, over all pairs; `classifier` the weights of L1 logistic regressions. `cards` is what
    the page shows, by layer, method, number of the pair and latent.
    """

    store: ActivationStore
    contrast: pl.DataFrame
    results: pl.DataFrame
    across: pl.DataFrame
    classifier: pl.DataFrame
    pairs: Sequence[Pair]
    cards: Mapping[tuple[int, str, int, int], Card]
    directory: Path | None


def prepare(
    dictionaries: Dictionaries | None,
    groups: Groups,
    settings: ContrastSettings,
    dataset: Recording | None = None,
    layers: Sequence[int] = (),
) -> list[Study]:
    """The study of each layer. ValueError for what does not fit, before activations are read."""
    saved = find_dictionaries(dictionaries) if dictionaries else []
    if saved:
        store = open_recording(saved[0], dataset)
    elif dataset is not None:
        store = opened(dataset)
    else:
        raise ValueError("no dictionary and no recording is named: give a run, or dataset=DIRECTORY with layer=.")
    table = columns_of(groups, store)
    studies = []
    for layer, members in dictionaries_by_layer(saved, store, layers).items():
        stored = store.tokens_per_image(layer)
        spans = select(stored, np.flatnonzero(stored), store.role_slice(settings.tokens))
        pairs = pairs_of(groups, table, per_image(spans, len(stored)) > 0)
        images = images_of(pairs)
        sides = [sides_of(pair, images, table, settings) for pair in pairs]
        log.info("layer %d: %d pairs of groups; %d images", layer, len(pairs), len(images))
        studies.append(Study(store, layer, find_dictionaries(members) if members else [], pairs, sides, images))
    return studies


def compare(
    studies: Sequence[Study],
    settings: ContrastSettings,
    *,
    directory: str | os.PathLike | None = None,
    codes: str | os.PathLike | None = None,
    device: str = "auto",
) -> ContrastResult:
    """The tables of all layers. Arguments as of `saev.contrast`. ValueError where no method is named."""
    parts: list[dict[str, pl.DataFrame]] = []
    compared: list[list[Method]] = []
    for study in studies:
        methods, raw = methods_of(study, settings, codes, resolve_device(device))
        if not methods:
            raise ValueError("no method is named: give dictionaries, baselines=[random_vectors] or channels=true.")
        where: dict[str, Any] = {
            "vit": (study.store.manifest.meaning.get("vit") or {}).get("name"), "dataset": study.store.name,
            "layer": study.layer, "tokens": settings.tokens, "pool": settings.pool, "strata": settings.strata,
            "group": settings.group,
        }  # fmt: skip
        parts.append(layer_tables(study, methods, raw, settings, where))
        compared.append(methods)
    tables = {name: pl.concat([part[name] for part in parts], how="diagonal_relaxed") for name in parts[0]}
    path = None if directory is None else Path(directory)
    if path is not None:
        for name, table in tables.items():
            if len(table):
                write_table(path, name, table, csv=name != "contrast")  # a row per latent: too large for csv
    cards: dict[tuple[int, str, int, int], Card] = {}
    for study, methods, part in zip(studies, compared, parts, strict=True):
        cards |= cards_of(study, methods, part["contrast"], part["results"], settings)
    return ContrastResult(studies[0].store, **tables, pairs=studies[0].pairs, cards=cards, directory=path)
