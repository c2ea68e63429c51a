"""Types of the root configurations, derived from the settings dataclasses, so that a wrong type or an unknown key is an error
before anything starts. Values stand in conf/*.yaml alone: here every key that is not optional is missing.
"""

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, Literal

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from saev.baselines.settings import BaselineSettings
from saev.config.build import dataclass_of
from saev.contrasts.settings import ContrastSettings, Groups
from saev.dictionary_bench.settings import BenchSettings
from saev.nn.settings import AuxK, Member
from saev.nn.sparsifiers.settings import SPARSIFIERS
from saev.probing.settings import ProbeSettings
from saev.runs.planning import GROUPS, PER_BASELINE, ROOT_SETTINGS, SCALARS
from saev.taxon_map.settings import MapSettings
from saev.training.settings import FitSettings, TrainSettings
from saev.trait_evaluation.settings import TraitsSettings

Types = Mapping[str, Any]  # key -> type
SHARED = ("vit", "images", "record", "datamodule", "paths")  # groups of train and fit
INPUT: Types = {"dataset": str | None, "layer": int}
JOB: Types = {"variants": list[list[str]] | None, "ckpt_path": str | None}


def types_of(cls: type, names: Collection[str] | None = None) -> dict[str, Any]:
    """The fields of a settings dataclass (those in `names`) with the types that OmegaConf knows."""
    hints = typing.get_type_hints(cls)
    fields = [field.name for field in dataclasses.fields(cls) if names is None or field.name in names]
    return {name: omegaconf_type(hints[name]) for name in fields}


def omegaconf_type(annotation: Any) -> Any:
    """The annotation in OmegaConf's types: the type of a Literal's values, a list for a tuple, a schema for a settings dataclass.

    >>> omegaconf_type(Literal["a", "b"]), omegaconf_type(tuple[int, ...]), omegaconf_type(float | None)
    (<class 'str'>, list[int], float | None)
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        inner = [omegaconf_type(argument) for argument in arguments if argument is not type(None)]
        return typing.Union[*inner, *([None] if type(None) in arguments else [])]
    if origin in (tuple, list):
        return list[omegaconf_type(arguments[0])]
    nested = dataclass_of(annotation)
    return schema(nested.__name__, types_of(nested)) if nested else annotation


def schema(name: str, keys: Types, groups: typing.Iterable[str] = ()) -> type:
    """A dataclass of these keys for Hydra's ConfigStore; `groups` are filled by the defaults list."""
    fields: list[Any] = [(group, Any, None) for group in groups]
    for key, annotation in keys.items():
        optional = type(None) in typing.get_args(annotation)
        if dataclasses.is_dataclass(annotation):
            fields.append((key, annotation, dataclasses.field(default_factory=annotation)))  # type: ignore[arg-type]
        else:
            fields.append((key, annotation, None if optional else MISSING))
    return dataclasses.make_dataclass(name, fields)


def register() -> None:
    """Make the schemas known to Hydra."""
    member = types_of(Member, SCALARS)
    for cls in (*SPARSIFIERS.values(), AuxK):
        member |= types_of(cls, ROOT_SETTINGS)
    train = {
        **INPUT,
        **types_of(TrainSettings),
        **member,
        **JOB,
        "tags": list[str],
        "member": str | None,
    }
    groups = (*SHARED, *GROUPS, "optimiser", "callbacks", "logger", "trainer")
    store = ConfigStore.instance().store
    store(name="train_schema", node=schema("Train", train, groups))
    baseline: dict[str, Any] = {}
    for cls in BaselineSettings.__subclasses__():  # PCA's k, a list, is baseline.k
        baseline |= {key: of for key, of in types_of(cls, PER_BASELINE).items() if of in (int, int | None)}
    fit = {**INPUT, **types_of(FitSettings), **baseline, **JOB}
    store(name="fit_schema", node=schema("Fit", fit, (*SHARED, "baseline")))
    probe = {"dictionaries": list[str], "dataset": str | None, "validation": str | None, "layer": int | None}
    probe |= {**types_of(ProbeSettings), "linear": bool, "device": str}
    store(name="probe_schema", node=schema("Probe", probe, ("linear_probe", "paths")))
    traits = {"dictionaries": list[str], "train": str | None, "test": str | None, "layer": Any, "codes": str | None}
    traits |= {**types_of(TraitsSettings), "scorers": dict[str, Any], "device": str}
    store(name="traits_schema", node=schema("Traits", traits, ("vit", "images", "record", "traits", "paths")))
    contrast = {"dictionaries": list[str], "runs": Any, "dataset": str | None, "layer": Any, "codes": str | None}
    contrast |= {**types_of(Groups, ("pairs", "by", "table", "key", "min_images")), **types_of(ContrastSettings)}
    contrast |= {**dict.fromkeys(("a", "b", "where", "third"), Any), "device": str}  # texts or mappings
    store(name="contrast_schema", node=schema("Contrast", contrast, ("images", "paths")))
    latents = {
        "dictionaries": list[str],
        "dataset": str | None,
        "layer": int | None,
        "codes": str | None,
        "device": str,
    }
    latents |= {
        **types_of(MapSettings),
        "rows": Any,
        "where": Any,
        "taxonomy": str | None,
    }  # a column or a list; a text or a mapping
    bench = {
        "dictionaries": list[str],
        "dataset": str | None,
        "layer": int | None,
        "transfer": list[str],
        "splice": bool,
    }
    bench |= types_of(BenchSettings)
    store(name="bench_schema", node=schema("Bench", bench, ("vit", "images", "embedder", "traits", "paths")))
    store(name="map_schema", node=schema("Map", latents, ("images", "paths")))
