"""The supervised bound in `saev probe`: linear probes on the same tokens, as rows beside the dictionaries'."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from saev.dictionary import Dictionary
from saev.probing.summary import TAUS
from saev.stages.label_splits import TRUE, Labelled
from saev.stages.linear_probe import fit_linear


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
