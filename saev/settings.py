"""Settings as frozen dataclasses: the type, the default and the bounds of a setting are declared once, with its field.

A settings dataclass calls `check(self)` in `__post_init__`, so a notebook and a command line get the same error.
The command line derives its schema from the same fields (saev/config/schema.py). No torch here: `--help` stays fast.
"""

import dataclasses
import operator
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

Examples = Literal["held_out", "all"]  # the images that training left out, or all recorded ones
BOUNDS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}


def bounded(
    default: Any = dataclasses.MISSING,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    hint: str = "",
) -> Any:
    """A dataclass field whose value, or each of whose values, lies within the bounds; None is never compared.

    `hint` ends the error message, for a remedy that the bounds do not tell.
    """
    metadata = {"at_least": at_least, "above": above, "at_most": at_most, "below": below, "hint": hint}
    return dataclasses.field(default=default, metadata=metadata)


def check(settings: Any, prefix: str = "") -> None:
    """ValueError naming key, value and remedy for a field outside its bounds or not among the values of its Literal type.

    `prefix` stands before the field's name where the command line has the settings in a group: "sparse.".
    """
    for field in dataclasses.fields(settings):
        value, metadata = getattr(settings, field.name), field.metadata
        if value is None:
            if type(None) not in (field.type, *typing.get_args(field.type)):
                raise ValueError(f"{prefix}{field.name}=null: must have a value.")
            continue
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        allowed = choices(field.type)
        if allowed and any(each not in allowed for each in values):
            raise ValueError(f"{prefix}{field.name}={shown(value)}: choose {listed(allowed)}.")
        bounds = [
            f"{key.replace('_', ' ')} {metadata[key]}"
            for key, holds in BOUNDS.items()
            if metadata.get(key) is not None and not all(holds(each, metadata[key]) for each in values)
        ]
        if bounds:
            hint = f" ({metadata['hint']})" if metadata.get("hint") else ""
            raise ValueError(f"{prefix}{field.name}={shown(value)}: must be {' and '.join(bounds)}{hint}.")


def choices(annotation: Any) -> tuple[Any, ...]:
    """The values of a Literal, also inside Optional or a sequence; () for another type.

    >>> choices(Literal["a", "b"] | None), choices(tuple[Literal[1, 2], ...]), choices(int)
    (('a', 'b'), (1, 2), ())
    """
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, list, Sequence):
        return next((found for each in typing.get_args(annotation) if (found := choices(each))), ())
    return ()


def listed(values: Sequence[Any]) -> str:
    """The values as a sentence has them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b or c')
    """
    texts = [shown(value) for value in values]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"


def shown(value: Any) -> str:
    """A value as it is typed on the command line: null for None, [a,b] for sequences.

    >>> shown((1, 2)), shown(None), shown(0.5)
    ('[1,2]', 'null', '0.5')
    """
    if value is None:
        return "null"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(shown(each) for each in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
