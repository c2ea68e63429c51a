"""From a composed configuration to the settings dataclasses of the library."""

import dataclasses
import types
import typing
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

Settings = TypeVar("Settings")


def build(cls: type[Settings], cfg: DictConfig, **given: Any) -> Settings:
    """An instance of the settings dataclass `cls` from the keys of `cfg` that are its fields; `given` comes first.

    Keys that are no field are left alone, fields without a key keep their default. A field whose type is a settings dataclass
    is built from the block of its name; lists become tuples. ValueError of the dataclass for values out of bounds.
    """
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in given or field.name not in cfg:
            continue
        nested, value = dataclass_of(hints[field.name]), cfg[field.name]
        if nested is not None and isinstance(value, DictConfig):
            values[field.name] = build(nested, value)
        else:
            of_several = typing.get_origin(hints[field.name]) is tuple  # one value stands for a list of it
            values[field.name] = (value,) if of_several and isinstance(value, str | int | float) else plain(value)
    return cls(**values, **given)


def plain(value: Any) -> Any:
    """The value without OmegaConf's containers; lists as tuples."""
    value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return tuple(plain(each) for each in value) if isinstance(value, list) else value


def dataclass_of(annotation: Any) -> type | None:
    """The dataclass that an annotation names, also inside Optional; None for another type."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((found for each in typing.get_args(annotation) if (found := dataclass_of(each))), None)
    return annotation if dataclasses.is_dataclass(annotation) and isinstance(annotation, type) else None
