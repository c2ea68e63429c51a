"""The end of a recording: the shards' rows, labels and moments are merged into the recording's tables.

    shard-*.json ─────────────────────▶ examples.parquet, shards of manifest.json
    shard-*.labels.safetensors ───────▶ token_labels.npy, token_fractions.npy
    layer-*/000000.stats.safetensors ─▶ layer-*/stats.safetensors

The manifest is written as `manifest.json.merged`, the merged files are deleted, then it gets its final name: a complete
recording never has leftovers, whenever a process is killed.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from saev.files import replacing, sha256
from saev.shards import tar
from saev.shards.codec import FILE as CODEC
from saev.shards.manifest import FILE, FRACTIONS, LABELS, Manifest, layer_dir
from saev.shards.moments import ByRole, load_moments, merge_roles, save_moments
from saev.shards.shard_writer import load_labels

EXAMPLES = "examples.parquet"
STATS = "stats.safetensors"
MERGED = f"{FILE}.merged"


def sidecar_path(root: Path, shard: int) -> Path:
    """The file whose presence marks a shard as recorded."""
    return root / f"shard-{shard:06d}.json"


def labels_path(root: Path, shard: int) -> Path:
    """The file with the labels and fractions of a shard's tokens."""
    return root / f"shard-{shard:06d}.labels.safetensors"


def merge(root: Path, manifest: Manifest, n_shards: int) -> None:
    """Write the tables and the final manifest under a temporary name; ValueError where no image could be read."""
    records = [json.loads(sidecar_path(root, i).read_text()) for i in range(n_shards)]
    shards = tuple(entry for at in range(len(manifest.layers)) for entry in (r["shards"][at] for r in records))
    rows = [row for r in records for row in r["examples"]]
    n_tokens = sum(row["n_tokens"] for row in rows)
    if n_tokens == 0:
        raise ValueError(
            f"{root}: none of the {manifest.n_examples} images could be read; first error: {rows[0]['error']}"
        )
    if manifest.labels is not None:
        for name, kind in ((LABELS, "labels"), (FRACTIONS, "fractions")):
            join(root / name, n_tokens, n_shards, lambda i, kind=kind: load_labels(labels_path(root, i), kind))
    moments = {}
    for layer in manifest.layers:
        stats = (load_moments(root / layer_dir(layer) / f"{i:06d}.{STATS}") for i in range(n_shards))
        moments[layer] = reduce(merge_roles, stats)
    with_tables(root, dataclasses.replace(manifest, shards=shards), rows, moments).save(root, MERGED)


def with_tables(
    root: Path, manifest: Manifest, rows: Sequence[Mapping[str, Any]], moments: Mapping[int, ByRole]
) -> Manifest:
    """Write examples.parquet and each layer's statistics; returns the complete manifest with every table's sha256."""
    import polars as pl  # heavy, needed once

    with replacing(root / EXAMPLES) as file:
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(file)
    tables = [EXAMPLES] + [LABELS, FRACTIONS] * (manifest.labels is not None)
    for layer in manifest.layers:
        save_moments(root / layer_dir(layer) / STATS, moments[layer])
        tables += [f"{layer_dir(layer)}/{name}" for name in [STATS] + [CODEC] * (manifest.dtype == "int8")]
    files = {name: sha256(root / name) for name in tables}
    n_tokens = sum(row["n_tokens"] for row in rows)
    return dataclasses.replace(manifest, n_tokens=n_tokens, files=files, complete=True)


def join(path: Path, n: int, n_pieces: int, piece: Callable[[int], Shaped[np.ndarray, " n_piece"]]) -> None:
    """Write n values, given in pieces, as one .npy file."""
    with replacing(path) as file:
        for i in range(n_pieces):
            values = piece(i)
            file.write((b"" if i else tar.npy_header((n,), values.dtype.name)) + values.tobytes())


def complete(root: Path) -> None:
    """Delete the merged files, then give the manifest its final name."""
    for left in (*root.glob("shard-*"), *root.glob(f"layer-*/*[0-9].{STATS}"), *root.rglob("*.tmp")):
        left.unlink(missing_ok=True)
    (root / MERGED).replace(root / FILE)
