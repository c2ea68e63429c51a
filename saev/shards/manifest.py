"""manifest.json: what a directory of activations holds, and whether it is whole."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = 1
FILE = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The meaning of a recording (what went in), its size, and the shards that hold it.

    `meaning` decides the directory's name; it never holds an absolute path. Fields that every reader needs
    (layers, roles, d_model, dtype) stand beside it.
    """

    meaning: dict[str, Any]  # images, vit, hook, order, ... as the recorder described them
    layers: tuple[int, ...]  # true block indices, ascending
    roles: dict[str, int]  # tokens per image by role in stored order; patches = -1 when images differ in shape
    d_model: int
    dtype: str
    n_examples: int
    examples_per_shard: int
    n_tokens: int = 0
    shards: tuple[dict[str, Any], ...] = ()  # {file, examples, tokens, bytes, sha256}
    complete: bool = False
    schema: int = SCHEMA

    @classmethod
    def load(cls, root: str | os.PathLike) -> "Manifest":
        """The manifest of the directory `root`; ValueError where there is none or it is not one of ours."""
        path = Path(root) / FILE
        if not path.is_file():
            raise ValueError(
                f"dataset={root} is not a recorded dataset: {FILE} is missing. "
                "Record one (`saev record images=... vit=...`) or give the directory that holds the manifest."
            )
        try:
            fields = json.loads(path.read_text())
            if fields["schema"] != SCHEMA:
                raise ValueError(
                    f"{path} has schema {fields['schema']}, this version reads {SCHEMA}: update saev-lightning or record again."
                )
            fields["layers"], fields["shards"] = tuple(fields["layers"]), tuple(fields["shards"])
            return cls(**fields)
        except (json.JSONDecodeError, KeyError, TypeError) as err:
            raise ValueError(f"{path} is not a manifest of recorded activations ({err!r}): record again.") from err

    def save(self, root: str | os.PathLike) -> None:
        """Write manifest.json into `root` in one step (temporary name, fsync, rename)."""
        write_atomically(Path(root) / FILE, json.dumps(dataclasses.asdict(self), indent=1).encode())

    @property
    def fingerprint(self) -> str:
        """sha256 of the recording's meaning and of its shards: changes when, and only when, the contents change."""
        shards = [[s["file"], s["sha256"]] for s in self.shards]
        return fingerprint({"meaning": self.meaning, "layers": self.layers, "dtype": self.dtype, "shards": shards})


def fingerprint(meaning: Mapping[str, Any]) -> str:
    """sha256 (hex) of a JSON-able mapping, whatever the order of its keys.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(meaning, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a reader, or a power cut, sees the whole file or none of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
