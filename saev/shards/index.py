"""The offset index of a shard: where each image's values start, so that tar entries can be read in place."""

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from saev.files import write_atomically
from saev.shards import tar
from saev.shards.codec import stored_row

SUFFIX = ".acts.npy"
FOREIGN = ".foreign.idx.npy"  # index of a tar that another program wrote, whose entry names are not image numbers
REMEDY = "restore it or record the dataset again"


def entry_name(example: int) -> str:
    """Name of the tar entry with image number `example`."""
    return f"{example:09d}{SUFFIX}"


def index_path(shard: Path) -> Path:
    """000000.tar -> 000000.idx.npy."""
    return shard.with_suffix(".idx.npy")


def read_header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], np.dtype, int]:
    """(shape, dtype, bytes of the header) of a .npy file in C order; ValueError for anything else."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran and len(shape) > 1:
        raise ValueError("its values are in Fortran order")
    return shape, dtype, file.tell()


def rows_of(shard: Path, d_model: int, dtype: str) -> Iterator[tuple[int, int, int]]:
    """(example, byte offset of the first value, tokens) of each entry, read from the tar's headers."""
    width, stored = stored_row(d_model, dtype)
    with open(shard, "rb") as file:
        for name, offset, size in tar.entries(shard):
            example = re.fullmatch(rf"(\d{{9}}){re.escape(SUFFIX)}", name)
            if example is None:
                raise ValueError(
                    f"{shard}: entry {name} is not named like {entry_name(0)}: {REMEDY}, or index the tars of another "
                    "program with saev.shards.foreign.index_foreign."
                )
            file.seek(offset)
            try:
                shape, dtype_in_file, head = read_header(io.BytesIO(file.read(min(size, 4096))))
            except ValueError as error:
                raise ValueError(f"{shard}: entry {name} is not an array ({error}): {REMEDY}.") from error
            if len(shape) != 2 or shape[1] != width or dtype_in_file != stored:
                raise ValueError(
                    f"{shard}: entry {name} holds {dtype_in_file} {shape}, the manifest says {dtype} [tokens, {d_model}]: "
                    f"the shard belongs to another dataset; {REMEDY}."
                )
            yield int(example[1]), offset + head, shape[0]


def scan(shard: Path, d_model: int, dtype: str) -> Int64[np.ndarray, "entries 3"]:
    """The index rebuilt from the tar's headers."""
    return np.array(list(rows_of(shard, d_model, dtype)), np.int64).reshape(-1, 3)


def load(shard: Path, d_model: int, dtype: str, digest: str) -> Int64[np.ndarray, "entries 3"]:
    """The stored index if it has the recorded sha256, else a new scan of the tar, which is stored.

    ValueError where the tar is missing, damaged, changed or of another recording, or where a foreign tar's index is.
    """
    if not shard.is_file():
        raise ValueError(f"{shard} is missing: {REMEDY}.")
    foreign = shard.with_suffix(FOREIGN)
    path = foreign if foreign.is_file() else index_path(shard)
    stored = path.read_bytes() if path.is_file() else b""
    rows = np.load(io.BytesIO(stored), allow_pickle=False) if hashlib.sha256(stored).hexdigest() == digest else None
    if path == foreign:
        if rows is None or path.stat().st_mtime_ns < shard.stat().st_mtime_ns:
            raise ValueError(
                f"{path} is damaged or older than its tar: index the tars again (saev.shards.foreign.index_foreign)."
            )
        return rows
    if rows is not None and next(rows_of(shard, d_model, dtype), None) == (
        tuple(rows[0].tolist()) if len(rows) else None
    ):
        return rows
    rows = scan(shard, d_model, dtype)
    stored = tar.npy(rows)
    if hashlib.sha256(stored).hexdigest() != digest:
        raise ValueError(f"{shard} holds other images than were recorded: {REMEDY}.")
    with suppress(OSError):  # saves the next reader the scan; reading works on a read-only disk too
        write_atomically(path, stored)
    return rows
