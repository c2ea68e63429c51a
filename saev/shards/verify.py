"""Comparison of a recording's files with the manifest's sha256; reads every byte."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from saev.files import sha256
from saev.shards import index
from saev.shards.manifest import Manifest


def verify(root: Path, manifest: Manifest) -> list[str]:
    """The shards and tables that are missing or have changed since they were recorded, one line each."""
    recorded = {shard["file"]: shard["sha256"] for shard in manifest.shards} | manifest.files
    faults = []
    for file, digest in recorded.items():
        if not (root / file).is_file():
            faults.append(f"{file} is missing")
        elif sha256(root / file) != digest:
            faults.append(f"{file} differs from what was recorded (sha256)")
    return faults


def index_faults(root: Path, manifest: Manifest) -> Iterator[str]:
    """The indices that do not match their tars, one line each. Readers rebuild them."""
    for recorded in manifest.shards:
        shard = root / recorded["file"]
        path = index.index_path(shard)
        if not shard.is_file() or shard.with_suffix(index.FOREIGN).is_file():
            continue
        try:
            rows = index.scan(shard, manifest.d_model, manifest.dtype)
        except ValueError:
            continue  # a damaged tar, which `verify` reports
        stored = index.stored_index(path, shard)
        if stored is None or not np.array_equal(stored, rows):
            yield f"{path.relative_to(root)} is missing, older than its tar, damaged, or another tar's"
