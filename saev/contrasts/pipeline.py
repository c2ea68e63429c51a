"""From dictionaries and groups of images to tables: the study of each layer, and the statistics of all of its methods.

prepare: pairs of groups, dictionaries by layer ──▶ Study ──compare: scores of images ──▶ statistics, classifiers, cards ──▶ tables
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool

from saev.contrasts.cards import Card
from saev.contrasts.conditions import texts_of
from saev.contrasts.groups import Pair, columns_of, pairs_of
from saev.contrasts.methods import BASELINES, CHANNELS, RAW, Method, methods_of
from saev.contrasts.other_runs import open_others, partner_rows, separating
from saev.contrasts.settings import ContrastSettings, Groups
from saev.contrasts.shown_latents import cards_of
from saev.contrasts.study import Study, images_of, sides_of, warn_of_few
from saev.contrasts.tables import layer_tables
from saev.device import resolve_device
from saev.images.tables import shortened
from saev.saved import Dictionaries, Recording, find_dictionaries, open_recording
from saev.scoring.by_layer import dictionaries_by_layer, opened
from saev.shards import ActivationStore
from saev.shards.selection import per_image, select

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ContrastResult:
    """Tables of `saev.contrast`.

    `contrast` has a row per layer, method, pair and latent; `results` a row per layer, method and pair; `across` a row per layer,
    method and latent that separates a pair, over all pairs; `classifier` the weights of L1 logistic regressions, `path` a row per
    penalty of them; `partners` a row per separating latent and dictionary of `runs`. `cards` is what the page shows, by layer,
    method, number of the pair and latent.
    """

    store: ActivationStore
    contrast: pl.DataFrame
    results: pl.DataFrame
    across: pl.DataFrame
    classifier: pl.DataFrame
    path: pl.DataFrame
    partners: pl.DataFrame
    pairs: Sequence[Pair]
    cards: Mapping[tuple[int, str, int, int], Card]


def prepare(
    dictionaries: Dictionaries | None,
    groups: Groups,
    settings: ContrastSettings,
    dataset: Recording | None = None,
    layers: Sequence[int] = (),
    runs: Dictionaries | None = None,
    activations: str | os.PathLike | None = None,
) -> list[Study]:
    """The study of each layer. Arguments as of `saev.contrast`. ValueError for what does not fit, before activations are read."""
    saved = find_dictionaries(dictionaries) if dictionaries else []
    if not (saved or settings.baselines or settings.channels):
        raise ValueError("no method is named: give dictionaries, baselines=[random_vectors] or channels=true.")
    if taken := {one.name for one in saved} & {CHANNELS, RAW}:
        raise ValueError(f"a dictionary is called {min(taken)!r}, as the method of this name: call it otherwise.")
    if saved:
        store = open_recording(saved[0], dataset, activations)
    elif dataset is not None:
        store = opened(dataset)
    else:
        raise ValueError("no dictionary and no recording is named: give a run, or dataset=DIRECTORY with layer=.")
    others = find_dictionaries(runs) if runs else []
    for one in (*saved, *others):
        one.names()  # ValueError for malformed annotations
    table = columns_of(groups, store)
    by_layer = dictionaries_by_layer(saved, store, layers)
    readable = with_tokens(store, [*by_layer], settings.tokens) & with_stratum(table, settings.strata)
    pairs = pairs_of(groups, table, readable)
    images = images_of(pairs)
    sides = [sides_of(pair, images, table, settings) for pair in pairs]
    few = [one.name for one in sides if one.smaller < 2]
    if len(few) == len(sides):
        raise ValueError(
            f"group={settings.group}: {shortened(few)}: a group is of a single {settings.group}: give several."
        )
    if few:
        log.warning("a group is of a single %s, left out: %s", settings.group, "; ".join(few))
        pairs, sides = zip(*((p, s) for p, s in zip(pairs, sides, strict=True) if s.smaller >= 2), strict=True)
    for one in sides:
        warn_of_few(one, settings)
    log.info("pairs of groups: %d; images: %d", len(pairs), len(images))
    studies = [
        Study(store, layer, find_dictionaries(members) if members else [], pairs, sides, images)
        for layer, members in by_layer.items()
    ]
    return [dataclasses.replace(study, others=open_others(study, others, activations)) for study in studies]


def with_tokens(store: ActivationStore, layers: Sequence[int], tokens: str) -> Bool[np.ndarray, " images"]:
    """The images that have tokens of these roles in all of the layers."""
    readable = np.ones(store.manifest.n_examples, bool)
    for layer in layers:
        stored = store.tokens_per_image(layer)
        spans = select(stored, np.flatnonzero(stored), store.role_slice(tokens))
        readable &= per_image(spans, len(stored)) > 0
    return readable


def with_stratum(table: pl.DataFrame, strata: str | None) -> Bool[np.ndarray, " images"]:
    """The images whose stratum is known; the number of others is logged."""
    if strata is None:
        return np.ones(len(table), bool)
    known = np.array([text != "" for text in texts_of(table, strata, f"strata={strata}")], bool)
    if not known.all():
        log.warning(
            "strata=%s: %d of %d images have no value and are left out", strata, np.count_nonzero(~known), len(known)
        )
    return known


def compare(
    studies: Sequence[Study],
    settings: ContrastSettings,
    *,
    save: Callable[[str, pl.DataFrame], None] = lambda name, table: None,
    codes: str | os.PathLike | None = None,
    device: str = "auto",
) -> ContrastResult:
    """The tables of all layers. Arguments as of `saev.contrast`.

    `save` is called with each table that has rows, before anything else can fail.
    """
    parts: list[dict[str, pl.DataFrame]] = []
    compared: list[list[Method]] = []
    for study in studies:
        methods, raw = methods_of(study, settings, codes, resolve_device(device))
        where: dict[str, Any] = {
            "vit": (study.store.manifest.meaning.get("vit") or {}).get("name"), "dataset": study.store.name,
            "layer": study.layer, "tokens": settings.tokens, "pool": settings.pool, "strata": settings.strata,
            "group": settings.group,
        }  # fmt: skip
        tables = layer_tables(study, methods, raw, settings, where)
        looked_for = {}
        for method in methods if study.others else ():
            if method.kind not in BASELINES:
                latents = separating(tables["contrast"], method.name, study.layer, settings.alpha)
                if len(latents):
                    looked_for[method.name] = method, latents
        if study.others and not looked_for:
            log.warning("runs: no latent of a dictionary separates a pair: there is nothing to look for in them")
        tables["partners"] = partner_rows(study, looked_for, settings, codes, resolve_device(device))
        parts.append(tables)
        compared.append(methods)
    tables = {name: pl.concat([part[name] for part in parts], how="diagonal_relaxed") for name in parts[0]}
    for name, table in tables.items():
        if len(table):
            save(name, table)
    cards: dict[tuple[int, str, int, int], Card] = {}
    for study, methods, part in zip(studies, compared, parts, strict=True):
        cards |= cards_of(study, methods, part["contrast"], part["results"], settings)
    return ContrastResult(studies[0].store, **tables, pairs=studies[0].pairs, cards=cards)
