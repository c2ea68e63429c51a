"""Types of the root configuration: a wrong type or an unknown key is an error before anything starts."""

import dataclasses
from typing import Any

from hydra.core.config_store import ConfigStore


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


@dataclasses.dataclass
class SparseSchema:
    """`sparse` of conf/probe.yaml."""

    levels: list[str] = dataclasses.field(default_factory=list)
    k: list[int] = dataclasses.field(default_factory=list)
    selection: str = "l1"
    candidates: int = 8
    tokens: int = 50000
    pooling: list[str] = dataclasses.field(default_factory=list)
    ridges: list[float] = dataclasses.field(default_factory=list)
    budget_gib: float = 8
    seed: int = 0


@dataclasses.dataclass
class ProbeVerbSchema:
    """conf/probe.yaml, where each key is explained."""

    linear_probe: Any = None
    paths: Any = None

    dictionaries: list[str] = dataclasses.field(default_factory=list)
    dataset: str | None = None
    validation: str | None = None
    val_fraction: float = 0.3
    layer: int | None = None
    tokens: str = "patches"

    labels: str = "patches"
    classes: list[int] | None = None
    ignore_labels: list[int] = dataclasses.field(default_factory=list)
    compat: str = "strict"

    latent_topk: int | None = None
    weights: str = "none"
    ridge: float = 1e-8
    mantissa_bits: int = 10
    budget_gib: float = 8
    top: int = 5
    pairs: bool = False
    nulls: list[str] = dataclasses.field(default_factory=list)
    bootstrap: int = 1000
    seed: int = 0

    sparse: SparseSchema = dataclasses.field(default_factory=SparseSchema)
    linear: bool = False
    batch_size: int = 4096
    device: str = "auto"
    save_every_s: float = 120


def register() -> None:
    """Make the schemas known to Hydra."""
    ConfigStore.instance().store(name="fit_schema", node=FitSchema)
    ConfigStore.instance().store(name="probe_schema", node=ProbeVerbSchema)
    ConfigStore.instance().store(name="train_schema", node=TrainSchema)
