"""manifest.json: the contents of a recording, and whether it is complete."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from saev.files import fingerprint, plain_name, write_atomically

SCHEMA = 1
FILE = "manifest.json"
VOID = 65535  # the label of patches without one
DTYPES = ("float16", "float32", "float64", "int8")
LABELS, FRACTIONS = "token_labels.npy", "token_fractions.npy"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The meaning of a recording (its inputs), its size, and its shards.

    `meaning` determines the directory's name and never contains an absolute path. Fields that every reader needs
    (layers, roles, d_model, dtype) are kept beside it.
    """

    meaning: dict[str, Any]  # description of images, vit, hook, order, ...
    layers: tuple[int, ...]  # true block indices, ascending
    roles: dict[str, int]  # tokens per image by role in stored order; patches = -1 when images differ in shape
    d_model: int
    dtype: str
    n_examples: int
    examples_per_shard: int
    n_tokens: int = 0
    shards: tuple[dict[str, Any], ...] = ()  # {file, examples, tokens, bytes, sha256, index_sha256}
    labels: dict[str, Any] | None = None  # how tokens were labelled; None: there are no token labels
    files: dict[str, str] = dataclasses.field(default_factory=dict)  # sha256 of the tables beside the shards
    complete: bool = False
    schema: int = SCHEMA

    @classmethod
    def load(cls, root: str | os.PathLike) -> "Manifest":
        """The manifest in the directory `root`; ValueError where it is missing, damaged or of another schema."""
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
            for name in (*(shard["file"] for shard in fields["shards"]), *fields.get("files", {})):
                plain_name(name, str(path))
            manifest = cls(**fields)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as err:
            raise ValueError(
                f"{path} is cut off or not a manifest of recorded activations ({err!r}): restore it or record again."
            ) from err
        if manifest.dtype not in DTYPES:
            raise ValueError(
                f"{path} says dtype={manifest.dtype}, known are {', '.join(DTYPES)}: restore it or record again."
            )
        return manifest

    def save(self, root: str | os.PathLike, name: str = FILE) -> None:
        """Write manifest.json into `root` atomically."""
        write_atomically(Path(root) / name, json.dumps(dataclasses.asdict(self), indent=1).encode())

    @property
    def fingerprint(self) -> str:
        """sha256 of the meaning, the shards and the labels: changes if and only if the contents change."""
        shards = [[s["file"], s["sha256"]] for s in self.shards]
        contents = {"meaning": self.meaning, "layers": self.layers, "dtype": self.dtype, "shards": shards}
        if self.labels is not None:
            contents["labels"] = [self.labels, self.files.get(LABELS), self.files.get(FRACTIONS)]
        return fingerprint(contents)


def layer_dir(layer: int) -> str:
    """The folder of a layer's shards."""
    return f"layer-{layer:02d}"
