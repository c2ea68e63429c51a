"""Recordings whose images have the given columns and patch labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saev.shards import ActivationStore, RecordingWriter


def recorded(
    root: Path,
    rows: Sequence[Mapping[str, Any]],
    labels: Sequence[Sequence[int]] | None = None,
    names: Mapping[int, str] | None = None,
    shift: np.ndarray | None = None,
) -> ActivationStore:
    """A cls token and the labelled patches of each row's image; 2 patches without labels. `shift` [images, 8] is added to all."""
    info = None if labels is None else {"classes": {str(id): name for id, name in (names or {}).items()}}
    writer = RecordingWriter(
        root, {"images": {}, "vit": {}}, len(rows), 3, [4], {"cls": 1, "patches": -1}, 8, "float32", labels=info
    )
    for number in writer.pending():
        with writer.shard(number) as shard:
            for i in writer.examples_of(number):
                ids = None if labels is None else np.array([65535, *labels[i]], np.uint16)
                acts = np.random.default_rng(i).normal(size=(3 if ids is None else len(ids), 8)).astype(np.float32)
                acts += 0 if shift is None else shift[i].astype(np.float32)
                fractions = None if ids is None else np.ones(len(ids), np.float16)
                row = {"key": f"{i}", "path": f"{i}.jpg", "grid_h": 1, "grid_w": len(acts) - 1, **rows[i]}
                shard.add(i, {4: acts}, row, ids, fractions)
    writer.finish()
    return ActivationStore(root)
