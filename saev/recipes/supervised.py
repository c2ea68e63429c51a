"""The supervised bound beside `saev.probe`: linear probes on the same tokens, as rows beside the dictionaries'."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from saev.device import resolve_device
from saev.probing.inputs import ProbeInputs
from saev.probing.rows import TAUS
from saev.probing.settings import ProbeSettings
from saev.probing.splits import TRUE, labels_of
from saev.recipes.linear_probe import fit_linear, selection_split
from saev.training.linear.inputs import names_of
from saev.training.linear.settings import LinearProbeSettings

NUMBERS = [f"{name}{end}" for name in ("map", "accuracy", "miou") for end in ("", "_low", "_high")]


def linear_bound(
    inputs: ProbeInputs,
    probing: ProbeSettings,
    settings: LinearProbeSettings,
    directory: str | os.PathLike,
    device: str = "auto",
) -> pl.DataFrame:
    """A row per input: its best probe (by validation loss). All rows of the grid are in `directory`/linear/linear.json.

    Softmax probes are fitted to all classes of the training images; the numbers of a row are over `probing.classes`.
    """
    train, val = inputs.data.splits
    stores = train.store if train.store is val.store else (train.store, val.store)
    every = dataclasses.replace(probing, classes=None)
    labels, ids, names = labels_of(every, (train.store, val.store), train.layer, train.images)
    number = {key: c for c, key in enumerate(zip(ids, names, strict=True) if probing.labels == "patches" else names)}
    keys = zip(inputs.data.ids, inputs.data.names, strict=True) if probing.labels == "patches" else inputs.data.names
    chosen = [number[key] for key in keys if key in number]
    rows = fit_linear(
        settings, stores, train.layer, (train.images, val.images), inputs.load(resolve_device(device)),
        Path(directory) / "linear", labels=(labels[0], labels[1]), tokens=train.tokens, classes=chosen,
        group=probing.group, bootstrap=probing.bootstrap,
    )  # fmt: skip
    here = {"dataset": train.store.name, "validation": val.store.name, "layer": train.layer, "tokens": train.tokens}
    here |= inputs.data.counts()
    return pl.DataFrame([summary(row, chosen) | here for row in rows if row["chosen"]])


def check_linear(inputs: ProbeInputs, settings: LinearProbeSettings) -> None:
    """ValueError for unknown inputs, a single training image or group, and a batch that exceeds the training tokens, before anything
    is read."""
    names_of(settings.inputs, [one.name for one in inputs.dictionaries])
    train = inputs.data.splits[0]
    selection_split(train.store, train.images, settings.seed, train.group)
    n_tokens = train.tally().n_tokens
    if (settings.batch_size or 0) > n_tokens:
        raise ValueError(
            f"linear_probe.batch_size={settings.batch_size} is more than the {n_tokens} training tokens with a label: lower it."
        )


def summary(row: Mapping[str, Any], classes: list[int]) -> dict[str, Any]:
    """A linear probe's numbers over these classes, under the names of a dictionary's; accuracy and miou are over all classes."""
    aps = np.array([row["ap"][c] for c in classes if row["ap"][c] is not None])
    return {
        "member": f"linear probe on {row['input']}",
        "labels": TRUE,
        "n_classes": len(aps),
        **{key: row[key] for key in NUMBERS if key in row},
        **{f"coverage_{tau}": float((aps >= tau).mean()) if len(aps) else None for tau in TAUS},
    }
