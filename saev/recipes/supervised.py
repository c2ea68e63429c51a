"""The supervised bound beside `saev.probe`: linear probes on the same tokens, as rows beside the dictionaries'."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from saev.device import resolve_device
from saev.probing.inputs import ProbeInputs
from saev.probing.rows import TAUS
from saev.probing.splits import TRUE, count_labelled
from saev.recipes.linear_probe import fit_linear
from saev.training.linear.inputs import names_of
from saev.training.linear.settings import LinearProbeSettings


def linear_bound(
    inputs: ProbeInputs, settings: LinearProbeSettings, directory: str | os.PathLike, device: str = "auto"
) -> pl.DataFrame:
    """A row per input: its best probe (by validation loss). All rows of the grid are in `directory`/linear/linear.json."""
    train, val = inputs.data.splits
    stores = train.store if train.store is val.store else (train.store, val.store)
    rows = fit_linear(
        settings, stores, train.layer, (train.images, val.images), inputs.load(resolve_device(device)),
        Path(directory) / "linear", labels=(train.variants[TRUE], val.variants[TRUE]), tokens=train.tokens,
    )  # fmt: skip
    return pl.DataFrame([summary(row) for row in rows if row["chosen"]])


def check_linear(inputs: ProbeInputs, settings: LinearProbeSettings) -> None:
    """ValueError for unknown inputs, and for a batch that exceeds the labelled training tokens, before anything is read."""
    names_of(settings.inputs, [one.name for one in inputs.dictionaries])
    n_tokens = count_labelled(inputs.data.splits[0])
    if settings.batch_size > n_tokens:
        raise ValueError(
            f"linear_probe.batch_size={settings.batch_size} is more than the {n_tokens} training tokens with a label: lower it."
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
