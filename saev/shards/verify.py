"""Comparison of a recording's files with the manifest's sha256; reads every byte."""

from pathlib import Path

from saev.files import sha256
from saev.shards import index
from saev.shards.manifest import Manifest


def verify(root: Path, manifest: Manifest) -> list[str]:
    """The shards and tables that are missing or have changed since they were recorded, one line each."""
    return differing(root, {shard["file"]: shard["sha256"] for shard in manifest.shards} | manifest.files)


def index_faults(root: Path, manifest: Manifest) -> list[str]:
    """The indices that are missing or have changed, one line each. Readers rebuild those of our own tars."""
    recorded = {}
    for shard in manifest.shards:
        path = root / shard["file"]
        foreign = path.with_suffix(index.FOREIGN)
        file = foreign if foreign.is_file() else index.index_path(path)
        recorded[str(file.relative_to(root))] = shard["index_sha256"]
    return differing(root, recorded)


def differing(root: Path, recorded: dict[str, str]) -> list[str]:
    """A line for each file, given with its recorded sha256, that is missing or differs."""
    faults = []
    for file, digest in recorded.items():
        if not (root / file).is_file():
            faults.append(f"{file} is missing")
        elif sha256(root / file) != digest:
            faults.append(f"{file} differs from what was recorded (sha256)")
    return faults
