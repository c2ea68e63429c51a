"""Conditions on columns, such as `subspecies=lativitta,view!=ventral`: which images of a table they hold for."""

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool

from saev.images.tables import RESERVED, shortened
from saev.settings import listed

Conditions = str | Mapping[str, Any]
MISSING = ("", "na", "nan", "?")  # in lower case: as of tables of labels
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
        if match is None or not match["column"] or match["value"].startswith("="):
            what = f"{part.strip()!r} is no condition" if part.strip() else "a condition is empty"
            raise ValueError(f"{key}={conditions}: {what}: write column=value, with commas between conditions.")
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
            if all(value is None for value in numbers):
                raise ValueError(f"{key}={column}{sign}{values[0]}: column {column!r} holds no numbers.")
            mask &= np.array([value is not None and bool(compare(value, limit)) for value in numbers], bool)
            continue
        there, wanted = sorted({*texts} - {""}), {plain(value) for value in values}
        for value in values:
            if plain(value) not in {*map(plain, there)}:
                close = difflib.get_close_matches(value, there, 3, 0.5)
                hint = f"did you mean {listed(close)}?" if close else f"it has {shortened(there, 6)}."
                raise ValueError(f"{key}={column}{sign}{value}: no image has this value in column {column!r}; {hint}")
        is_one = np.array([plain(text) in wanted for text in texts], bool)
        mask &= known & (is_one if sign == "=" else ~is_one)
    return mask


def texts_of(table: pl.DataFrame, column: str, where: str) -> list[str]:
    """A column's values as text, "" where they are missing (empty, NA, NaN, ?); ValueError where there is no such column."""
    if column not in table.columns:
        names = [name for name in table.columns if name not in RESERVED or name == "path"]
        close = difflib.get_close_matches(column, names, 3, 0.5)
        hint = f"did you mean {listed(close)}?" if close else f"choose among {', '.join(names)}."
        raise ValueError(f"{where}: there is no column {column!r}; {hint}")
    texts = ["" if value is None else str(value) for value in table[column].to_list()]
    return ["" if text.strip().lower() in MISSING else text for text in texts]


def plain(text: str) -> str:
    """Texts that mean one number, or one of true and false, in one form; codes like 007 are no numbers.

    >>> plain("1.0"), plain("1.50"), plain("007"), plain("True"), plain("erato")
    ('1', '1.5', '007', 'true', 'erato')
    """
    if re.fullmatch(r"-?(0|[1-9]\d*)\.\d+", text):
        return text.rstrip("0").removesuffix(".")
    return text.lower() if text.lower() in ("true", "false") else text
