"""Traits of classes: a matrix of classes and attributes, joined to images by their class."""

import difflib
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int8, Int64

from saev.images.tables import read_table, shortened
from saev.probing.image_tables import binary_values, columns_of
from saev.probing.labels import closest
from saev.shards import ActivationStore
from saev.trait_evaluation.sources.settings import AWA2, Matrix
from saev.trait_evaluation.sources.tables import trait_columns
from saev.trait_evaluation.table import TraitTable

log = logging.getLogger(__name__)


def table(settings: Matrix, store: ActivationStore, examples: Int64[np.ndarray, " images"]) -> TraitTable:
    """The rows of the images' classes; -1 for images without a class or, where that is allowed, of a class without a row."""
    if settings.column not in (columns := columns_of(store)):
        raise ValueError(
            f"traits.column={settings.column}: {store.name} has no such column{closest(settings.column, columns) if columns else '.'}"
        )
    names, matrix = read(settings)
    row_of = rows_of(settings.path, [*matrix])
    images = ["" if value is None else str(value) for value in store.examples[settings.column]]
    classes = sorted({*images} - {""})
    missing = [name for name in classes if plain(name) not in row_of]
    if missing and (settings.missing == "refuse" or len(missing) == len(classes)):
        raise ValueError(missing_message(settings, store, missing, len(classes), [*matrix]))
    if missing:
        log.warning("traits.path=%s: images of %s have unknown traits", settings.path, shortened(missing, 12))
    values = np.stack([*matrix.values(), np.full(len(names), -1, np.int8)])
    used = values[[row_of[plain(name)] for name in classes if name not in missing]]
    varying = (used == 1).any(0) & (used == 0).any(0)
    if not varying.any():
        raise ValueError(f"traits.path={settings.path}: every trait is the same in all classes of {store.name}.")
    if not varying.all():
        same = [name for name, varies in zip(names, varying, strict=True) if not varies]
        log.info(
            "%d of %d traits are the same in all %d classes of %s and left out: %s",
            len(same), len(names), len(used), store.name, ", ".join(same),
        )  # fmt: skip
    rows = [row_of.get(plain(images[i]), -1) if images[i] else -1 for i in examples]
    return TraitTable(
        tuple(name for name, varies in zip(names, varying, strict=True) if varies), values[rows][:, varying]
    )


def read(settings: Matrix) -> tuple[tuple[str, ...], dict[str, Int8[np.ndarray, " traits"]]]:
    """(names of the traits, values by class)."""
    path = Path(settings.path or "")
    if path.is_file():
        rows = read_table(path, settings.key)
        names = trait_columns(f"traits.path={path}", rows, settings.ignore)
    else:
        names, rows = read_awa2(next(path.glob(f"*{AWA2}")))
    values = binary_values(rows, names, f"traits.path={path}", " or traits.ignore=[{}]")
    return names, dict(zip(rows, values, strict=True))


def rows_of(path: str | None, classes: list[str]) -> dict[str, int]:
    """The row of each class by its compared name; ValueError for two classes of the same one."""
    row_of: dict[str, int] = {}
    for row, name in enumerate(classes):
        if row_of.setdefault(plain(name), row) != row:
            other = classes[row_of[plain(name)]]
            raise ValueError(f"traits.path={path}: {other!r} and {name!r} are one class: keep one row.")
    return row_of


def missing_message(
    settings: Matrix, store: ActivationStore, missing: list[str], n_classes: int, classes: list[str]
) -> str:
    """Which classes of the recording have no row, those most like them, and the remedy."""
    by_plain = {plain(name): name for name in classes}
    near = {name: difflib.get_close_matches(plain(name), by_plain, 2, 0.5) for name in missing}
    named = [f"{n!r}" + (f" (like {' or '.join(by_plain[m] for m in near[n])})" if near[n] else "") for n in missing]
    remedy = "rename them, or leave their traits unknown: traits.missing=unknown"
    if len(missing) == n_classes:
        remedy = "rename them, or join by other columns (traits.column, and traits.key of a csv)"
    return (
        f"traits.path={settings.path}: {len(missing)} of the {n_classes} values of column {settings.column!r} of {store.name} are "
        f"none of its {len(classes)} classes: {shortened(named, 6)}: {remedy}."
    )


def plain(name: str) -> str:
    """The name by which classes are compared.

    >>> plain("001.Black_footed_Albatross"), plain("polar+bear")
    ('black footed albatross', 'polar bear')
    """
    return " ".join(re.split(r"[\s_+-]+", re.sub(r"^\s*\d+\s*\.", "", name).strip(" _+-").casefold()))


def read_awa2(file: Path) -> tuple[tuple[str, ...], Mapping[str, dict[str, str]]]:
    """(attributes, {class: {attribute: field}}) of AwA2's three files; ValueError where they do not fit."""
    prefix = file.name.removesuffix(AWA2)
    classes, names = (
        [row["name"] for row in read_table(file.with_name(f"{prefix}{other}.txt"), column="name").values()]
        for other in ("classes", "predicates")
    )
    lines = [line.split() for line in file.read_text().splitlines() if line.strip()]
    if len(lines) != len(classes) or {*map(len, lines)} != {len(names)}:
        raise ValueError(
            f"{file} has {len(lines)} lines of {sorted({*map(len, lines)})} fields, {prefix}classes.txt {len(classes)} classes and "
            f"{prefix}predicates.txt {len(names)} attributes: unpack AwA2-base.zip again."
        )
    return tuple(names), {name: dict(zip(names, line, strict=True)) for name, line in zip(classes, lines, strict=True)}
