"""Files written atomically, and hashes of their contents."""

import glob
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import polars as pl


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces `path` at the end of the block; deleted if the block raises.

    Readers see the whole new file or the previous one, never a part, also after a killed process or a power cut.
    """
    # random, because process numbers may coincide on machines that record parts side by side
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as file:
        file.write(data)


def sha256(path: Path) -> str:
    """sha256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(meaning: Mapping[str, Any]) -> str:
    """sha256 (hex) of a JSON-able mapping; the order of keys does not matter.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(meaning, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_csv(path: str | os.PathLike, **options: Any) -> "pl.DataFrame":
    """`polars.read_csv` of exactly this file: brackets and asterisks in its path are no pattern."""
    import polars as pl

    return pl.read_csv(Path(path), glob=False, **options)


def read_parquet(path: str | os.PathLike) -> "pl.DataFrame":
    """The table in a file; polars itself takes brackets in a path for a pattern."""
    import polars as pl  # slow to import

    return pl.read_parquet(Path(path), glob=False)


def matching(pattern: str) -> list[str]:
    """Existing paths that match a pattern, sorted; a path that exists, or its part up to the first wildcard, is no pattern.

    >>> import tempfile; root = tempfile.mkdtemp(suffix="[x]"); os.mkdir(f"{root}/run")
    >>> [path.removeprefix(root) for path in (*matching(root), *matching(f"{root}/r*"))]
    ['', '/run']
    """
    path = Path(pattern)
    base = next((above for above in (path, *path.parents) if os.path.exists(above)), Path())
    rest = str(path.relative_to(base))
    return [pattern] if base == path else sorted(str(base / name) for name in glob.glob(rest, root_dir=base))


UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # surrogates: bytes that are not UTF-8


def plain_name(name: Any, where: str, remedy: str = "do not use files from this source") -> str:
    """`name`, a relative path below a folder; ValueError for an absolute path, `..`, control characters, text that is not UTF-8.

    Names in manifests, tars and tables are written by others: they must not lead out of their folder.
    """
    if not isinstance(name, str) or not name or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{where} names the file {name!r}, which is not a relative path without `..`: {remedy}.")
    if UNPRINTABLE.search(name):
        shown = repr(name.encode(errors="surrogateescape").decode(errors="backslashreplace")).replace("\\\\", "\\")
        raise ValueError(f"{where} names the file {shown}, which has control characters or is not UTF-8: {remedy}.")
    return name
