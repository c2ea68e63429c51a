"""The offset index of a shard: where each image's values start, so that tar members can be read in place."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from saev.shards import tar

SUFFIX = ".acts.npy"


def member_name(example: int) -> str:
    """The tar member that holds image number `example`."""
    return f"{example:09d}{SUFFIX}"


def index_path(shard: Path) -> Path:
    """000000.tar -> 000000.idx.npy."""
    return shard.with_suffix(".idx.npy")


def scan(shard: Path, d_model: int, dtype: str) -> Int64[np.ndarray, "members 3"]:
    """(example, byte offset of the first value, tokens) of each member, read from the tar's own headers."""
    rows = []
    with open(shard, "rb") as file:
        for name, offset, size in tar.members(shard):
            if not name.endswith(SUFFIX):
                continue
            file.seek(offset)
            head = io.BytesIO(file.read(min(size, 4096)))
            np.lib.format.read_magic(head)
            shape, fortran, found = np.lib.format.read_array_header_1_0(head)
            if len(shape) != 2 or shape[1] != d_model or found != np.dtype(dtype) or fortran:
                raise ValueError(
                    f"{shard}: member {name} holds {found} {shape}, the manifest says {dtype} [tokens, {d_model}]: "
                    "the shard belongs to another dataset; restore it or record it again."
                )
            rows.append((int(name.removesuffix(SUFFIX)), offset + head.tell(), shape[0]))
    return np.array(rows, np.int64).reshape(-1, 3)


def load(shard: Path, d_model: int, dtype: str) -> Int64[np.ndarray, "members 3"]:
    """The stored index where it fits the tar, a fresh scan where it is missing or stale."""
    path = index_path(shard)
    if not shard.is_file():
        raise ValueError(f"{shard} is missing: restore it or record the dataset again.")
    if path.is_file() and path.stat().st_mtime_ns >= shard.stat().st_mtime_ns:
        rows = np.load(path, allow_pickle=False)
        width = d_model * np.dtype(dtype).itemsize
        end = int((rows[:, 1] + rows[:, 2] * width).max()) if len(rows) else 0
        if end > shard.stat().st_size:
            raise ValueError(
                f"{shard} is truncated ({shard.stat().st_size} of at least {end} bytes): restore it or record it again."
            )
        return rows
    return scan(shard, d_model, dtype)
