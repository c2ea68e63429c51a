"""Types of the root configuration: a wrong type or an unknown key is an error before anything starts."""

import dataclasses
import types
import typing
from typing import Any, Literal

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from saev.config.build import dataclass_of
from saev.probing.settings import ProbeSettings


@dataclasses.dataclass
class ProbeSchema:
    """`probe` of conf/train.yaml."""

    dataset: str | None = None
    images: int = 64
    tokens: int = 16384


@dataclasses.dataclass
class TrainSchema:
    """conf/train.yaml, where each key is explained."""

    vit: Any = None
    images: Any = None
    record: Any = None
    datamodule: Any = None
    sae: Any = None
    objective: Any = None
    auxk: Any = None
    decoder: Any = None
    optimiser: Any = None
    callbacks: Any = None
    logger: Any = None
    trainer: Any = None
    paths: Any = None

    dataset: str | None = None
    layer: int = 0
    tokens: str = "patches"
    ignore_labels: list[int] = dataclasses.field(default_factory=list)
    batch_size: int = 16384
    n_tokens: int | None = None
    subset_tokens: int | None = None
    normalise: str = "scalar"
    data_seed: int = 0

    sparsity: float | None = None
    l0_target: float | None = None
    k: int | None = None
    d_sae: int | None = None
    expansion: float = 8
    lr: float = 3e-4
    seed: int = 0
    init: str = "data"
    b_dec: str = "median"
    dead_tokens: int = 10_000_000

    warmup: int = 1000
    decay: float = 0.2
    clip: float = 1.0
    products: str = "auto"
    matmul_precision: str = "highest"
    sparsity_warmup: float = 0.05
    val_every: int = 1000
    log_every: int = 50

    probe: ProbeSchema = dataclasses.field(default_factory=ProbeSchema)

    variants: list[list[str]] | None = None
    ckpt_path: str | None = None
    report: bool = True
    tags: list[str] = dataclasses.field(default_factory=list)
    member: str | None = None


@dataclasses.dataclass
class FitSchema:
    """conf/fit.yaml, where each key is explained."""

    vit: Any = None
    images: Any = None
    record: Any = None
    datamodule: Any = None
    baseline: Any = None
    paths: Any = None

    dataset: str | None = None
    layer: int = 0
    tokens: str = "patches"
    ignore_labels: list[int] = dataclasses.field(default_factory=list)
    batch_size: int = 16384
    subset_tokens: int | None = None
    normalise: str = "scalar"
    data_seed: int = 0

    n_latents: int = 1024
    k: int | None = None
    passes: int = 10
    seed: int = 0

    variants: list[list[str]] | None = None
    device: str = "auto"
    save_every_s: float = 60
    ckpt_path: str | None = None


Types = dict[str, Any]  # key -> type


def types_of(cls: type) -> Types:
    """The keys of a settings dataclass with the types that OmegaConf knows."""
    hints = typing.get_type_hints(cls)
    return {field.name: omegaconf_type(hints[field.name]) for field in dataclasses.fields(cls)}


def omegaconf_type(annotation: Any) -> Any:
    """The annotation in OmegaConf's types: a Literal is its values' type, a tuple a list, a settings dataclass a schema.

    >>> omegaconf_type(Literal["a", "b"]), omegaconf_type(tuple[int, ...]), omegaconf_type(float | None)
    (<class 'str'>, list[int], float | None)
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        (inner,) = [each for each in arguments if each is not type(None)]
        return omegaconf_type(inner) | None
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


PROBE_KEYS: Types = {  # beside ProbeSettings
    "dictionaries": list[str], "dataset": str | None, "validation": str | None, "layer": int | None, "linear": bool, "device": str,
}  # fmt: skip


def register() -> None:
    """Make the schemas known to Hydra."""
    ConfigStore.instance().store(name="fit_schema", node=FitSchema)
    ConfigStore.instance().store(
        name="probe_schema", node=schema("Probe", types_of(ProbeSettings) | PROBE_KEYS, ("linear_probe", "paths"))
    )
    ConfigStore.instance().store(name="train_schema", node=TrainSchema)
