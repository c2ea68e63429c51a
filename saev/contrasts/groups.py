"""The pairs of groups of images that are compared, from columns of the recording and of a joined table."""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64

from saev.contrasts.conditions import Condition, holds, number, parse, texts_of
from saev.contrasts.settings import Groups
from saev.images.tables import read_table, shortened
from saev.probing.image_tables import joined
from saev.shards import ActivationStore

log = logging.getLogger(__name__)
TOGETHER = ("where", "third")
MOST_VALUES = 64  # of a column that are compared two by two: 2,016 pairs


class Pair(NamedTuple):
    """Two groups of images, by their numbers in the recording, ascending, and a third one that is only shown (often empty)."""

    name: str
    labels: tuple[str, str, str]  # of a, b and the third group, as they are shown
    a: Int64[np.ndarray, " a"]
    b: Int64[np.ndarray, " b"]
    third: Int64[np.ndarray, " third"]


def columns_of(groups: Groups, store: ActivationStore) -> pl.DataFrame:
    """examples.parquet with the columns of `groups.table`, whose rows are of images (by path or stem) or of values of a column."""
    return store.examples if groups.table is None else joined(store, groups.table, "table", groups.key or "")


def pairs_of(groups: Groups, table: pl.DataFrame, readable: Bool[np.ndarray, " images"]) -> list[Pair]:
    """The pairs, of images that are `readable`; those with a group of fewer than `min_images` are named and left out.

    ValueError for unknown columns and values, for images in both groups of a pair, and where no pair is left.
    """
    pairs = [pair_of(name, sides, table, readable) for name, sides in named(groups, table, readable)]
    small = [pair for pair in pairs if min(len(pair.a), len(pair.b)) < groups.min_images]
    kept = [pair for pair in pairs if min(len(pair.a), len(pair.b)) >= groups.min_images]
    sizes = [f"{pair.name} ({len(pair.a)} and {len(pair.b)} images)" for pair in small]
    if not kept:
        largest = max((min(len(pair.a), len(pair.b)) for pair in small), default=0)
        raise ValueError(
            f"min_images={groups.min_images}: no pair has as many images in both groups: {shortened(sizes)}; "
            + ("give larger groups." if largest < 2 else f"give larger groups, or min_images={largest}.")
        )
    if small:
        log.warning("groups of fewer than min_images=%d images, left out: %s", groups.min_images, "; ".join(sizes))
    return kept


Sides = dict[str, tuple[Condition, ...]]


def named(groups: Groups, table: pl.DataFrame, readable: Bool[np.ndarray, " images"]) -> list[tuple[str, Sides]]:
    """(name, conditions of a, b, where and third) of every pair."""
    where = () if groups.where is None else parse(groups.where, "where")
    third = () if groups.third is None else parse(groups.third, "third")
    if groups.by is not None:
        here = readable & holds(where, table, "where")
        texts = np.array(texts_of(table, groups.by, f"by={groups.by}"), object)[here]
        values = sorted({*texts.tolist()} - {""})
        if len(values) < 2:
            raise ValueError(f"by={groups.by}: {len(values)} values ({shortened(values)}): a pair needs two.")
        if len(values) > MOST_VALUES:
            raise ValueError(
                f"by={groups.by}: {len(values)} values make {len(values) * (len(values) - 1) // 2} pairs: at most {MOST_VALUES} values are "
                "compared two by two; choose another column, or name the pairs, pairs=table.csv."
            )
        return [
            (f"{a} / {b}", {
                "a": (Condition(groups.by, "=", (a,)),), "b": (Condition(groups.by, "=", (b,)),), "where": where, "third": (),
            })
            for a, b in itertools.combinations(values, 2)
        ]  # fmt: skip
    if groups.pairs is not None:
        return from_table(Path(groups.pairs), where, third)
    assert groups.a is not None and groups.b is not None, "checked by Groups"
    both = {"a": parse(groups.a, "a"), "b": parse(groups.b, "b"), "where": where, "third": third}
    full = say_little(both["a"], both["b"])
    return [(f"{label(both['a'], full)} / {label(both['b'], full)}", both)]


def from_table(file: Path, where: tuple[Condition, ...], third: tuple[Condition, ...]) -> list[tuple[str, Sides]]:
    """The pairs of a table; what it leaves out is as given for all."""
    rows = read_table(file, "name")
    columns = {*next(iter(rows.values()), {})}
    if missing := {"a", "b"} - columns:
        raise ValueError(
            f"pairs={file} has no column {min(missing)!r}: it needs name, a and b; where and third if need be."
        )
    if unknown := columns - {"a", "b", *TOGETHER}:
        raise ValueError(f"pairs={file}: unknown column {min(unknown)!r}: choose name, a, b, where, third.")
    out = []
    for name, row in rows.items():
        sides: Sides = {"where": where, "third": third}
        for column, text in row.items():
            if text:
                sides[column] = parse(text, f"{file}, {name}: {column}") + (where if column == "where" else ())
            elif column in ("a", "b"):
                raise ValueError(f"pairs={file}, {name}: {column} is empty: write a condition, column=value.")
        out.append((name, sides))
    return out


def pair_of(name: str, sides: Sides, table: pl.DataFrame, readable: Bool[np.ndarray, " images"]) -> Pair:
    """The images of one pair."""
    masks = {key: holds(conditions, table, key) for key, conditions in sides.items()}
    here = readable & masks["where"]
    a, b = here & masks["a"], here & masks["b"]
    for key, mask in (("a", a), ("b", b)):
        if not mask.any():
            under = (
                f" among the {np.count_nonzero(here)} images of where={label(sides['where'])}" if sides["where"] else ""
            )
            raise ValueError(f"{name}: {key}={label(sides[key])} has no image with recorded tokens{under}.")
    if (both := a & b).any():
        paths = [table["path"][int(i)] for i in np.flatnonzero(both)]
        raise ValueError(
            f"{name}: {shortened(paths)} are in both groups, {label(sides['a'])} and {label(sides['b'])}: exclude them."
        )
    third = here & masks["third"] & ~a & ~b if sides["third"] else np.zeros(len(table), bool)
    if sides["third"] and not third.any():
        log.warning("%s: third=%s has no image beside those of a and b, and of where=", name, label(sides["third"]))
    full = say_little(sides["a"], sides["b"])
    labels = tuple(label(sides[key], full) if sides[key] else "" for key in ("a", "b", "third"))
    return Pair(name, labels, *map(np.flatnonzero, (a, b, third)))  # type: ignore[arg-type]


def say_little(a: Sequence[Condition], b: Sequence[Condition]) -> bool:
    """Whether the values of two groups say little without their columns: equal ones, numbers, yes and no."""
    texts = {label(a), label(b)}
    return len(texts) < 2 or any(
        number(text) is not None or text.lower() in ("true", "false", "yes", "no") for text in texts
    )


def label(conditions: Sequence[Condition], full: bool = False) -> str:
    """Conditions as they are shown: the values alone where all are `column=value`, unless `full`."""
    if not full and all(one.sign == "=" for one in conditions):
        return " ".join("|".join(one.values) for one in conditions)
    return ",".join(f"{one.column}{one.sign}{'|'.join(one.values)}" for one in conditions)
