"""manifest.json: what a directory of activations holds, and whether it is whole."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from saev.files import fingerprint, write_atomically

SCHEMA = 1
FILE = "manifest.json"
VOID = 65535  # the label of patches without one
DTYPES = ("float16", "float32", "float64", "int8")
LABELS, SHARES = "token_labels.npy", "token_shares.npy"


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
    labels: dict[str, Any] | None = None  # how tokens were labelled; None: there are no token labels
    files: dict[str, str] = dataclasses.field(default_factory=dict)  # sha256 of the tables beside the shards
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
            found = cls(**fields)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as err:
            raise ValueError(
                f"{path} is cut off or not a manifest of recorded activations ({err!r}): restore it or record again."
            ) from err
        if found.dtype not in DTYPES:
            raise ValueError(
                f"{path} says dtype={found.dtype}, known are {', '.join(DTYPES)}: restore it or record again."
            )
        return found

    def save(self, root: str | os.PathLike, name: str = FILE) -> None:
        """Write manifest.json into `root` in one step (temporary name, fsync, rename)."""
        write_atomically(Path(root) / name, json.dumps(dataclasses.asdict(self), indent=1).encode())

    @property
    def fingerprint(self) -> str:
        """sha256 of the recording's meaning and of its shards: changes when, and only when, the contents change."""
        shards = [[s["file"], s["sha256"]] for s in self.shards]
        contents = {"meaning": self.meaning, "layers": self.layers, "dtype": self.dtype, "shards": shards}
        if self.labels is not None:
            contents["labels"] = [self.labels, self.files.get(LABELS), self.files.get(SHARES)]
        return fingerprint(contents)


def layer_dir(layer: int) -> str:
    """The folder of one layer's stream."""
    return f"layer-{layer:02d}"
