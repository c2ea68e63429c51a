"""The supervised bound in `saev probe`: linear probes on the same tokens, as rows beside the dictionaries'."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from saev.dictionary import Dictionary
from saev.probing.data.splits import TRUE, Labelled
from saev.probing.judging.summary import TAUS
from saev.recipes.linear_probe import fit_linear
from saev.training.linear.inputs import names_of
from saev.training.linear.probe import grid


def supervised(
    cfg: DictConfig, data: Labelled, members: Mapping[str, Dictionary], directory: Path
) -> list[dict[str, Any]]:
    """A row per input: its best probe (by validation loss). All rows of the grid are in linear/linear.json."""
    settings: Any = OmegaConf.to_container(cfg.linear_probe, resolve=True)
    train, val = data.splits
    stores = train.store if train.store is val.store else (train.store, val.store)
    rows = fit_linear(
        settings, stores, train.layer, (train.images, val.images), members, directory / "linear",
        labels=(train.variants[TRUE], val.variants[TRUE]), tokens=cfg.tokens,
    )  # fmt: skip
    return [summary(row) for row in rows if row["chosen"]]


def check_linear(settings: Mapping[str, Any], members: Iterable[str], n_tokens: int) -> None:
    """ValueError for settings of conf/linear_probe that cannot be fitted to so many tokens, before anything is read."""
    grid(names_of(settings["inputs"], members), settings["lrs"], settings["weight_decays"])
    for key in ("max_epochs", "batch_size", "patience"):
        if settings[key] < 1:
            raise ValueError(f"linear_probe.{key}={settings[key]}: give at least 1.")
    if settings["batch_size"] > n_tokens:
        raise ValueError(
            f"linear_probe.batch_size={settings['batch_size']} is more than the {n_tokens} training tokens with a label: lower it."
        )


def summary(row: Mapping[str, Any]) -> dict[str, Any]:
    """A linear probe's numbers under the names of a dictionary's."""
    aps = np.array([ap for ap in row["ap"] if ap is not None])
    return {
        "member": f"linear probe on {row['input']}",
        "labels": TRUE,
        "n_classes": len(aps),
        "map": row["map"],
        "accuracy": row["accuracy"],
        "iou": row["miou"],
        **{f"coverage_{tau}": float((aps >= tau).mean()) for tau in TAUS},
    }
