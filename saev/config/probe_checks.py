"""What `saev probe` refuses before it reads anything, and what a checkpoint of it depends on outside the configuration."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf

from saev.checkpoint import WEIGHTS
from saev.codes.manifest import KIND
from saev.codes.store import CodeStore
from saev.device import check_device
from saev.probing.data.splits import check
from saev.probing.logistic.weighting import Weights
from saev.probing.sparse.probing import check_sparse
from saev.saved import find_dictionaries
from saev.shards import ActivationStore
from saev.shards.manifest import FILE

WEIGHINGS = get_args(Weights)


def validate(cfg: DictConfig) -> None:
    """ValueError for values out of bounds, before anything is loaded."""
    check(cfg)
    for key in ("batch_size", "top"):
        if cfg[key] < 1:
            raise ValueError(f"{key}={cfg[key]}: give at least 1.")
    if cfg.bootstrap < 0 or cfg.ridge < 0 or cfg.budget_gib <= 0:
        raise ValueError(
            f"bootstrap={cfg.bootstrap}, ridge={cfg.ridge}, budget_gib={cfg.budget_gib}: give 0 or more (budget_gib: above 0)."
        )
    if cfg.latent_topk is not None and cfg.latent_topk < 1:
        raise ValueError(f"latent_topk={cfg.latent_topk}: give at least 1, or null for all codes.")
    if cfg.weights not in WEIGHINGS:
        raise ValueError(f"weights={cfg.weights}: choose {' or '.join(WEIGHINGS)}.")
    check_device(str(cfg.device), "device")
    if cfg.sparse.levels:
        check_sparse(sparse_settings(cfg))


def check_stored(cfg: DictConfig, stored: Sequence[CodeStore]) -> None:
    """ValueError for settings that codes on disk cannot follow."""
    if stored and cfg.validation:
        raise ValueError(
            f"validation={cfg.validation}: {stored[0].root} has codes of one recording: leave validation out, or name the "
            "dictionary instead of its codes."
        )
    if stored and cfg.latent_topk is not None:
        raise ValueError(
            f"latent_topk={cfg.latent_topk} is for codes that are made now; {stored[0].root} has what `saev encode` kept: leave "
            f"latent_topk out, or encode with latent_topk={cfg.latent_topk}."
        )
    for codes in stored:
        if cfg.layer is not None and ActivationStore(cfg.dataset).resolve_layer(cfg.layer) != codes.manifest.layer:
            raise ValueError(
                f"layer={cfg.layer}: {codes.root} has codes of layer {codes.manifest.layer}; leave layer out."
            )


def sparse_settings(cfg: DictConfig) -> dict[str, Any]:
    """The block `sparse` as plain values."""
    settings: Any = OmegaConf.to_container(cfg.sparse, resolve=True)
    return settings


def is_codes(path: str) -> bool:
    """Whether a directory holds codes of `saev encode`."""
    manifest = Path(path) / FILE
    return manifest.is_file() and json.loads(manifest.read_text()).get("kind") == KIND


def stamps(cfg: DictConfig) -> dict[str, Any]:
    """What tells that the files named were replaced: sizes and times of the dictionaries', a hash of the labels' table."""
    files = []
    for path in cfg.dictionaries:
        files += (
            [Path(path) / FILE]
            if is_codes(path)
            else [one.path / WEIGHTS for one in find_dictionaries([path]) if one.path]
        )
    about: dict[str, Any] = {"files": [[file.stat().st_size, file.stat().st_mtime_ns] for file in files]}
    if Path(cfg.labels).is_file():
        about["table"] = hashlib.sha256(Path(cfg.labels).read_bytes()).hexdigest()
    return about
