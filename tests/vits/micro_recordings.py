"""Recordings of generated photos with the micro ViT, shared by the tests of this folder."""

import hashlib
from pathlib import Path

from saev.images import FolderImages
from saev.vits import MicroVit, Recording

N = 23
SMALL = {"shard_mb": 7 * 16 * 32 * 2 / 1e6, "batch_size": 3, "n_workers": 2, "device": "cpu"}  # 7 images a shard


def recording(photos: Path, root: Path, **knobs) -> Recording:
    fields = {
        "images": FolderImages(root=str(photos), name="birds"),
        "vit": MicroVit(),
        "layers": [1, -1],
        "root": root,
    }
    return Recording(**fields | SMALL | knobs)


def contents(directory: Path) -> dict[str, str]:
    files = [p for p in sorted(directory.rglob("*")) if p.is_file()]
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
