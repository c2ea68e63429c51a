"""`saev.traits` without baselines that are fitted on demand (saev/recipes/traits.py adds these).

recordings, trait source ──▶ sides ──methods──▶ scores of units by prototypes ──grid──▶ best prototypes ──▶ rows, means
"""

import dataclasses
import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from saev.device import resolve_device
from saev.files import fingerprint
from saev.runs.tables import write_table
from saev.saved import (
    Dictionaries,
    Recording,
    SavedDictionary,
    find_dictionaries,
    has_other_images,
)
from saev.scoring.against import seed_table
from saev.scoring.by_layer import dictionaries_by_layer, opened
from saev.scoring.scorers import TokenScorer, kind_of
from saev.shards.split import held_out_split
from saev.trait_evaluation.layer_tables import Comparison, tables_of_layer
from saev.trait_evaluation.methods import CHANNELS, RAW, Study, image_methods
from saev.trait_evaluation.settings import TraitsSettings
from saev.trait_evaluation.sources import ImageTraits, Masks
from saev.trait_evaluation.token_methods import token_methods
from saev.trait_evaluation.units import Side, image_sides, rankable, split_of, token_sides

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TraitsResult:
    """Tables of `saev.traits`, which `directory` holds as parquet and csv.

    `traits` has a row per method, seed, n_train, n_prototypes and trait; `results` their means over seeds and traits; `images`
    the test images with the largest scores of each dictionary's best prototypes, and positives with the lowest (no rows where
    units are tokens). `seeds` has the means over dictionaries that differ by seed only; None without such.
    """

    traits: pl.DataFrame
    results: pl.DataFrame
    images: pl.DataFrame
    directory: Path | None
    seeds: pl.DataFrame | None = None


def prepare(
    dictionaries: Dictionaries | None,
    train: Recording,
    source: ImageTraits | Masks,
    settings: TraitsSettings,
    test: Recording | None = None,
    layers: Sequence[int] = (),
) -> list[Study]:
    """The study of each layer. ValueError for what does not fit, before activations are read."""
    store, other = opened(train), None if test is None else opened(test)
    saved = find_dictionaries(dictionaries) if dictionaries else []
    studies = []
    for layer, members in dictionaries_by_layer(saved, store, layers).items():
        images = split_of(store, other, settings, layer)
        if isinstance(source, Masks):
            sides = token_sides(source, store, other, images, settings, layer)
        else:
            sides = image_sides(source, store, other, images, settings.group)
        names, first, second = sides if settings.compat == "saev" else rankable(*sides)
        sizes = len(first.labels), len(second.labels), source.unit
        log.info("layer %d: %d traits; %d training, %d test %ss", layer, len(names), *sizes)
        for one in members:
            warn_of_test_images(one, second)
        studies.append(Study(layer, find_dictionaries(members) if members else [], names, first, second))
    return studies


def evaluate_traits(
    studies: Sequence[Study],
    settings: TraitsSettings,
    *,
    scorers: Mapping[str, TokenScorer] | None = None,
    directory: str | os.PathLike | None = None,
    codes: str | os.PathLike | None = None,
    device: str = "auto",
    label_mode: str | None = None,
) -> TraitsResult:
    """Rank, choose and compare: the tables of all layers. Arguments as of `saev.traits`.

    ValueError where no method is named, or two have one name.
    """
    parts: list[dict[str, pl.DataFrame]] = []
    over_seeds: list[pl.DataFrame] = []
    for study in studies:
        check_names(study, scorers or {}, settings)
        of_units = image_methods if study.train.token is None else token_methods
        methods, raw = of_units(study, scorers or {}, settings, codes, resolve_device(device))
        where = {
            "vit": (study.train.store.manifest.meaning.get("vit") or {}).get("name"),
            "train": study.train.store.name,
            "test": study.test.store.name,
            "layer": study.layer,
            "tokens": settings.tokens,
            "unit": "image" if study.train.token is None else "token",
            "pool": settings.pool if study.train.token is None else None,
            "label_mode": label_mode,
            "protocol": settings.compat,
            "units": fingerprint({"train": study.train.digest(), "test": study.test.digest()})[:8],
        }
        part = tables_of_layer(Comparison(study.names, study.train, study.test, settings, where), methods, raw)
        parts.append(part)
        if (seeds := seeds_of(study, part["results"], settings.against)) is not None:
            over_seeds.append(seeds)
    tables = {name: pl.concat([part[name] for part in parts], how="diagonal_relaxed") for name in parts[0]}
    seeds = pl.concat(over_seeds, how="diagonal_relaxed") if over_seeds else None
    path = None if directory is None else Path(directory)
    if path is not None:
        for name, table in tables.items():
            write_table(path, name, table)
        if seeds is not None:
            write_table(path, "seeds", seeds)
    return TraitsResult(**tables, directory=path, seeds=seeds)


def seeds_of(study: Study, results: pl.DataFrame, against: str) -> pl.DataFrame | None:
    """Means over dictionaries that differ by seed only, of the mAP with all prototypes and training units; None without such."""
    single = results.filter(labels="true", n_latents=1)
    full = single.filter(*(pl.col(key) == pl.col(key).max().over("method") for key in ("n_train", "n_prototypes")))
    rows = {row["method"]: row for row in full.iter_rows(named=True)}
    meant = [one.name for one in study.members if against in (one.name, kind_of(one))]
    table = seed_table(rows, study.members, ("map",), meant)
    return None if table is None else table.with_columns(layer=pl.lit(study.layer))


def warn_of_test_images(one: SavedDictionary, test: Side) -> None:
    """Say how many of the test images a dictionary was trained on, without their traits."""
    split, store = one.provenance.get("held_out"), test.store
    if split is None or has_other_images(one, store):
        return
    tokens, ignored = one.provenance.get("token_roles") or "patches", tuple(one.provenance.get("ignore_labels") or ())
    trained = held_out_split(store, store.resolve_layer(one.provenance["layer"]), tokens, ignored, **split)[0]
    if seen := len(np.intersect1d(trained, test.images)):
        log.warning(
            "%s was trained on %d of the %d test images, though not on their traits: train with datamodule.split=, or with "
            "datamodule.val_fraction= as test_fraction is, to hold them out", one.name, seen, len(test.images),
        )  # fmt: skip


def check_names(study: Study, scorers: Mapping[str, TokenScorer], settings: TraitsSettings) -> None:
    """ValueError where there is no method, a scorer has a name that is taken, or `against` is no method."""
    taken = {RAW, CHANNELS, *(one.name for one in study.members)} & {*scorers}
    if taken:
        raise ValueError(f"scorers.{min(taken)}: another method has this name: choose another one.")
    if not (study.members or scorers or settings.channels or settings.supervised):
        raise ValueError("no method is named: give dictionaries, baselines=[random_vectors] or channels=true.")
    methods = [(one.name, kind_of(one)) for one in study.members]
    methods += [(name, type(scorer).__name__) for name, scorer in scorers.items()]
    known = dict.fromkeys(
        [*(x for method in methods for x in method), *settings.baselines, *[CHANNELS] * settings.channels]
    )
    if settings.against not in known and settings.against != "random_vectors":
        close = difflib.get_close_matches(settings.against, [*known], 3, 0.5) or [*known][:6]
        raise ValueError(f"against={settings.against} is no method's name or kind. Close: {', '.join(close)}.")
