"""`saev.traits` without baselines that are fitted on demand (saev/recipes/traits.py adds these).

recordings, trait source ──▶ sides ──methods──▶ scores of units by prototypes ──grid──▶ best prototypes ──▶ rows, means
"""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from saev.device import resolve_device
from saev.runs.tables import write_table
from saev.saved import Dictionaries, Recording, SavedDictionary, find_dictionaries, layer_of, open_recording
from saev.shards import ActivationStore
from saev.trait_evaluation.layer_tables import Comparison, tables_of_layer
from saev.trait_evaluation.methods import Method, image_methods
from saev.trait_evaluation.scores import TokenScorer
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
    units are tokens).
    """

    traits: pl.DataFrame
    results: pl.DataFrame
    images: pl.DataFrame
    directory: Path | None


def evaluate_traits(
    dictionaries: Dictionaries | None,
    train: Recording,
    source: ImageTraits | Masks,
    settings: TraitsSettings = TraitsSettings(),  # noqa: B008 it is frozen
    *,
    test: Recording | None = None,
    layers: Sequence[int] = (),
    scorers: Mapping[str, TokenScorer] | None = None,
    directory: str | os.PathLike | None = None,
    codes: str | os.PathLike | None = None,
    device: str = "auto",
) -> TraitsResult:
    """For each trait choose the best prototype of each method on training units, and measure it on test units.

    Args:
        dictionaries: directories of dictionaries, runs or sweeps, or name -> dictionary in memory.
        train, source: a recording, and where its images' or tokens' traits come from (saev/trait_evaluation/sources).
        test: another recording; None: images of `train`, by its column `split` or by `settings.test_fraction`.
        layers: block indices; none: those that the dictionaries were trained on. Dictionaries of other layers are left out.
        scorers: further methods by name: what maps activations [batch, d_model] to scores [batch, n_prototypes].
        directory: where tables are written; None: nothing is written.
        codes: the folder of codes, which are read where they are there; None: $SAEV_OUTPUTS/codes.

    Raises ValueError for what does not fit, before anything is read.
    """
    store, other = opened(train), None if test is None else opened(test)
    saved = find_dictionaries(dictionaries) if dictionaries else []
    by_layer = dictionaries_by_layer(saved, store, layers)
    parts: list[dict[str, pl.DataFrame]] = []
    for layer, members in by_layer.items():
        names, first, second = sides_of(source, store, other, settings, layer)
        log.info(
            "layer %d: %d traits; %d training, %d test %ss",
            layer,
            len(names),
            *map(len, (first.labels, second.labels)),
            source.unit,
        )
        methods, raw = methods_and_raw(
            members, scorers or {}, first, second, layer, settings, codes, resolve_device(device)
        )
        if not methods and not settings.supervised:
            raise ValueError("no method is named: give dictionaries, baselines=[random_vectors] or channels=true.")
        where = {
            "vit": (store.manifest.meaning.get("vit") or {}).get("name"),
            "train": store.name,
            "test": (other or store).name,
            "layer": layer,
            "unit": "image" if first.token is None else "token",
            "pool": settings.pool if first.token is None else None,
            "label_mode": getattr(source, "labels", None),
            "protocol": settings.compat,
        }
        parts.append(tables_of_layer(Comparison(names, first, second, settings, where), methods, raw))
    tables = {name: pl.concat([part[name] for part in parts], how="diagonal_relaxed") for name in parts[0]}
    path = None if directory is None else Path(directory)
    if path is not None:
        for name, table in tables.items():
            write_table(path, name, table)
    return TraitsResult(**tables, directory=path)


def opened(recording: Recording) -> ActivationStore:
    return recording if isinstance(recording, ActivationStore) else ActivationStore(recording)


def dictionaries_by_layer(
    saved: Sequence[SavedDictionary], store: ActivationStore, layers: Sequence[int]
) -> dict[int, list[SavedDictionary]]:
    """The dictionaries of each layer; ValueError without a layer."""
    out: dict[int, list[SavedDictionary]] = {store.resolve_layer(layer): [] for layer in layers}
    for one in saved:
        layer = layer_of(one, open_recording(one, store))
        if layers and layer not in out:
            log.warning(
                "%s was trained on layer %d, which is not among layer=%s: left out", one.name, layer, list(layers)
            )
        else:
            out.setdefault(layer, []).append(one)
    if not out:
        raise ValueError("no layer is named: give dictionaries, or layer=[8].")
    return out


def sides_of(
    source: ImageTraits | Masks,
    store: ActivationStore,
    other: ActivationStore | None,
    settings: TraitsSettings,
    layer: int,
) -> tuple[tuple[str, ...], Side, Side]:
    """(names of the traits, training side, test side), without traits that nothing can be ranked by."""
    images = split_of(store, other, settings, layer)
    if isinstance(source, Masks):
        sides = token_sides(source, store, other, images, settings, layer)
    else:
        sides = image_sides(source, store, other, images, settings.group)
    names, first, second = rankable(*sides)
    return names, first, second


def methods_and_raw(
    members: Sequence[SavedDictionary],
    scorers: Mapping[str, TokenScorer],
    train: Side,
    test: Side,
    layer: int,
    settings: TraitsSettings,
    codes: str | os.PathLike | None,
    device: str,
) -> tuple[list[Method], tuple[np.ndarray, np.ndarray]]:
    """The methods, and the raw activations of both sides' units."""
    if train.token is None:
        return image_methods(members, scorers, train, test, layer, settings, codes, device)
    return token_methods(members, scorers, train, test, layer, settings, device)
