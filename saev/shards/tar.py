"""Minimal ustar: write an entry, list the entries of a file.

General tar writers do much more work per entry; these files open in tarfile, GNU tar and webdataset.
"""

import io
import os
import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

BLOCK = 512
END = bytes(2 * BLOCK)


def header(name: str, size: int) -> bytes:
    """A 512-byte ustar header of a plain file of `size` bytes; mtime and owner are 0, so that the bytes are reproducible."""
    if len(name) > 100 or size >= 8**11:
        raise ValueError(f"tar entry {name!r} ({size} bytes): names hold 100 characters and entries 8 GiB")
    fields = b"".join(
        (
            name.encode("ascii").ljust(100, b"\0"),
            b"0000644\0" + b"0000000\0" * 2,
            b"%011o\0" % size,
            b"%011o\0" % 0,
            b" " * 8,  # the checksum counts itself as spaces
            b"0" + bytes(100) + b"ustar\x0000",
            bytes(BLOCK - 265),
        )
    )
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def parse_header(block: bytes) -> tuple[str, int]:
    """(name, size in bytes) of an entry; ValueError for a block that is no header."""
    if len(block) < BLOCK or block[257:262] != b"ustar" or not re.fullmatch(rb"[0-7]{11}", block[124:135]):
        raise ValueError("there is no tar header")
    return block[:100].rstrip(b"\0").decode(errors="backslashreplace"), int(block[124:135], 8)


def padding(size: int) -> bytes:
    """The zeros that fill an entry up to a whole number of blocks."""
    return bytes(-size % BLOCK)


@lru_cache(maxsize=4096)
def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The .npy header of a C-ordered array, padded by NumPy so that the values start at a multiple of 64 bytes."""
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    """A small array as a .npy file."""
    return npy_header(array.shape, array.dtype.name) + array.tobytes()


def entries(path: str | os.PathLike) -> Iterator[tuple[str, int, int]]:
    """Yield (name, offset of the payload, size) of each entry; ValueError naming a truncated file."""
    length = os.path.getsize(path)
    with open(path, "rb") as file:
        offset = 0
        while True:
            file.seek(offset)
            block = file.read(BLOCK)
            if len(block) == BLOCK and not any(block):
                return
            try:
                name, size = parse_header(block)
            except ValueError as error:
                raise ValueError(
                    f"{path} is truncated or not a tar file ({error} at byte {offset}): restore it or record it again."
                ) from error
            if offset + BLOCK + size > length:
                raise ValueError(f"{path} is truncated at byte {length}: restore it or record it again.")
            yield name, offset + BLOCK, size
            offset += BLOCK + size + (-size % BLOCK)
