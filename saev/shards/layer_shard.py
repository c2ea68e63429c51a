"""One layer's part of one shard: a tar file that appears whole, its index and its moments."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from saev.shards import index, tar
from saev.shards.moments import ByRole, Moments, by_role, merge_roles, save_moments


def layer_dir(layer: int) -> str:
    """The folder of one layer's stream."""
    return f"layer-{layer:02d}"


class LayerShard:
    """One tar file under a temporary name, its index and its moments."""

    def __init__(self, path: Path, roles: Mapping[str, int], d_model: int, dtype: str):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.roles, self.dtype = path, roles, dtype
        for left in path.parent.glob(f"{path.name}.*.part"):  # by a process that was killed in this very shard
            left.unlink(missing_ok=True)
        self.temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        self.file: BinaryIO = open(self.temporary, "wb", buffering=1 << 20)  # noqa: SIM115 closed by commit or discard
        self.sha, self.at = hashlib.sha256(), 0
        self.rows: list[tuple[int, int, int]] = []
        self.moments: ByRole = {role: Moments.zeros(d_model) for role in roles}

    def _write(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self.sha.update(data)
        self.at += len(data)

    def add(self, example: int, acts: np.ndarray) -> None:
        head = tar.npy_header(acts.shape, self.dtype)
        size = len(head) + acts.nbytes
        self._write(tar.header(index.member_name(example), size) + head)
        self.rows.append((example, self.at, len(acts)))
        self._write(acts.reshape(-1).view(np.uint8).data)
        self._write(tar.padding(size))
        self.moments = merge_roles(self.moments, by_role(acts, self.roles))

    def commit(self) -> dict[str, Any]:
        self._write(tar.END)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self.temporary.replace(self.path)
        rows = np.array(self.rows, np.int64).reshape(-1, 3)
        np.save(index.index_path(self.path), rows)
        save_moments(self.path.with_suffix(".stats.safetensors"), self.moments)
        file = f"{self.path.parent.name}/{self.path.name}"
        tokens = int(rows[:, 2].sum())
        return {"file": file, "examples": len(rows), "tokens": tokens, "bytes": self.at, "sha256": self.sha.hexdigest()}

    def discard(self) -> None:
        self.file.close()
        self.temporary.unlink(missing_ok=True)
