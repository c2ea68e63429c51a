"""Conditions on columns, such as `subspecies=lativitta,view!=ventral`: which images of a table they hold for."""

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool

from saev.images.tables import shortened
from saev.settings import listed

Conditions = str | Mapping[str, Any]
COMPARISONS: dict[str, Callable] = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
PATTERN = re.compile(r"^\s*(?P<column>.*?)\s*(?P<sign>!=|<=|>=|=|<|>)\s*(?P<value>.*?)\s*$", re.DOTALL)


class Condition(NamedTuple):
    """One condition: `column` is (or is not) one of the values, or compares to a number."""

    column: str
    sign: str  # = != < <= > >=
    values: tuple[str, ...]


def parse(conditions: Conditions, key: str) -> tuple[Condition, ...]:
    """The conditions of a text or a mapping, all of which must hold.

    A text: conditions with commas between them; `column=value`, `column!=value`, `column>=number` (<, <=, >, too), with `|` between
    alternative values. A mapping of columns to a value or a list of values takes values that have these signs in them.

    >>> parse("view=dorsal|both, year>=1990", "where")
    (Condition(column='view', sign='=', values=('dorsal', 'both')), Condition(column='year', sign='>=', values=('1990',)))
    """
    if isinstance(conditions, Mapping):
        several = {
            column: value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
            for column, value in conditions.items()
        }
        return tuple(Condition(str(column), "=", tuple(map(str, values))) for column, values in several.items())
    out = []
    for part in conditions.split(","):
        match = PATTERN.match(part)
        if match is None or not match["column"]:
            raise ValueError(f"{key}={conditions}: {part.strip()!r} is no condition: write column=value.")
        column, sign, value = match.group("column", "sign", "value")
        values = (value,) if sign in COMPARISONS else tuple(each.strip() for each in value.split("|"))
        if sign in COMPARISONS and number(value) is None:
            raise ValueError(f"{key}={conditions}: {value!r} is no number: {sign} compares numbers.")
        out.append(Condition(column, sign, values))
    return tuple(out)


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def holds(conditions: Sequence[Condition], table: pl.DataFrame, key: str) -> Bool[np.ndarray, " images"]:
    """The rows for which all conditions hold. Empty fields fulfil none, not even !=.

    ValueError for a column, or a value, that the table does not have, with those that are nearly called so.
    """
    mask = np.ones(len(table), bool)
    for column, sign, values in conditions:
        texts = texts_of(table, column, f"{key}={column}{sign}{'|'.join(values)}")
        known = np.array([text != "" for text in texts], bool)
        if sign in COMPARISONS:
            limit, compare = float(values[0]), COMPARISONS[sign]
            numbers = [number(text) for text in texts]
            mask &= np.array([value is not None and bool(compare(value, limit)) for value in numbers], bool)
            continue
        there = sorted({*texts} - {""})
        for value in values:
            if value not in there:
                close = difflib.get_close_matches(value, there, 3, 0.5)
                hint = f"did you mean {listed(close)}?" if close else f"it has {shortened(there, 6)}."
                raise ValueError(f"{key}={column}{sign}{value}: no image has this value in column {column!r}; {hint}")
        is_one = np.isin(np.array(texts, object).astype(str), values)
        mask &= known & (is_one if sign == "=" else ~is_one)
    return mask


def texts_of(table: pl.DataFrame, column: str, where: str) -> list[str]:
    """A column's values as text, "" where it is empty; ValueError where there is no such column."""
    if column not in table.columns:
        close = difflib.get_close_matches(column, table.columns, 3, 0.5)
        hint = f"did you mean {listed(close)}?" if close else f"choose among {', '.join(table.columns)}."
        raise ValueError(f"{where}: there is no column {column!r}; {hint}")
    return ["" if value is None else str(value) for value in table[column].to_list()]
