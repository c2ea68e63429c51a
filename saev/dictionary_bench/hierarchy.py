"""A hierarchy of classes: the children of each parent, from a csv."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from saev.dictionary_bench.absorption import MIN_SIBLINGS
from saev.files import read_csv

PARENT, CHILD = "parent", "child"


def siblings(path: str | os.PathLike, classes: Sequence[str]) -> dict[str, list[int]]:
    """By parent the numbers (in `classes`) of its children, of parents with at least 3 of them; other children are not classes here.

    The csv has columns `parent` and `child`; a child may have several parents. ValueError where no group has 3 classes.
    """
    if not Path(path).is_file():
        raise ValueError(f"hierarchy={path} is not there: give a csv with the columns parent, child.")
    table = read_csv(path, infer_schema_length=0)
    if absent := {PARENT, CHILD} - {*table.columns}:
        raise ValueError(
            f"hierarchy={path} has no column {' and '.join(sorted(absent))}: give parent,child in its first line."
        )
    number: Mapping[str, int] = {str(name): i for i, name in enumerate(classes)}
    groups: dict[str, list[int]] = {}
    for parent, child in table.select(PARENT, CHILD).drop_nulls().unique(maintain_order=True).iter_rows():
        if child in number:
            groups.setdefault(parent, []).append(number[child])
    groups = {parent: sorted(children) for parent, children in groups.items() if len(children) >= MIN_SIBLINGS}
    if not groups:
        some = ", ".join(map(str, classes[:3]))
        raise ValueError(
            f"hierarchy={path}: no parent has {MIN_SIBLINGS} children among the {len(classes)} classes ({some}, ...): name children as "
            "the labels do."
        )
    return groups
