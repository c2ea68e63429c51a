"""manifest.json of a directory of codes: the dictionary, the activations, and whether the codes are complete."""

import dataclasses
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from saev.baselines.baseline import Baseline
from saev.checkpoint import CONFIG, WEIGHTS, save_dictionary
from saev.codes.settings import EncodeSettings
from saev.files import fingerprint, plain_name, sha256, write_atomically
from saev.nn.autoencoder import SparseAutoencoder
from saev.saved import SavedDictionary
from saev.shards.manifest import FILE
from saev.shards.selected_tokens import Selection

SCHEMA = 2
KIND = "codes"
SPANS, LATENTS = "spans.npy", "latents.parquet"
ARRAYS = ("indptr", "indices", "values")


@dataclasses.dataclass(frozen=True)
class CodesManifest:
    """The contents of a directory of codes."""

    dictionary: dict[str, str]  # path (as it was given), sha256 (of its weights and config.json)
    dataset: dict[str, str]  # name, fingerprint
    layer: int
    tokens: str
    ignore_labels: tuple[int, ...]
    images: dict[str, Any]  # n, sha256 of their numbers (int64, ascending)
    latent_topk: int | str | None
    dtype: str
    n_latents: int
    first_patch: int | None = None  # among an image's stored tokens; None: no patches
    n_tokens: int = 0  # rows
    nnz: int = 0
    shards: tuple[dict[str, Any], ...] = ()  # {tokens, nnz, sha256: {indptr, indices, values}}
    files: dict[str, str] = dataclasses.field(default_factory=dict)  # sha256 of the tables beside the shards
    views: tuple[str, ...] = ()  # of token, latent, image: what the directory holds
    complete: bool = False
    kind: str = KIND
    schema: int = SCHEMA

    @classmethod
    def of(
        cls, dictionary: dict[str, str], n_latents: int, selection: Selection, settings: EncodeSettings
    ) -> "CodesManifest":
        """The manifest of codes that are still to be computed; `dictionary` as `identify` returns it."""
        store = selection.store
        return cls(
            dictionary=dictionary,
            dataset={"name": store.name, "fingerprint": store.manifest.fingerprint},
            layer=selection.layer,
            tokens=selection.tokens,
            ignore_labels=tuple(sorted(selection.ignore_labels)),
            images={"n": len(selection.images), "sha256": numbers_sha256(selection.images)},
            latent_topk=settings.latent_topk,
            dtype=settings.dtype,
            n_latents=n_latents,
            first_patch=store.role_slice("patches")[0] if store.manifest.roles.get("patches") else None,
            n_tokens=selection.spans.n_tokens,
        )

    @classmethod
    def load(cls, root: str | os.PathLike) -> "CodesManifest":
        """The manifest of the directory `root`; ValueError where it is missing or not one of codes."""
        path = Path(root) / FILE
        if not path.is_file():
            raise ValueError(f"{root} holds no codes: {FILE} is missing. Write them with `saev encode`.")
        try:
            fields = json.loads(path.read_text())
            if fields.get("kind") != KIND:
                raise ValueError(
                    f"{root} holds no codes, but something else: give a directory written by `saev encode`."
                )
            if fields["schema"] != SCHEMA:
                raise ValueError(
                    f"{path} has schema {fields['schema']}, this version reads {SCHEMA}: update saev-lightning or encode again."
                )
            for name in fields["files"]:
                plain_name(name, str(path))
            for name in ("ignore_labels", "shards", "views"):
                fields[name] = tuple(fields[name])
            return cls(**fields)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is truncated or no manifest of codes ({error!r}): restore it or encode again."
            ) from error

    def save(self, root: Path, name: str = FILE) -> None:
        """Write manifest.json into `root` in one step."""
        write_atomically(root / name, json.dumps(dataclasses.asdict(self), indent=1).encode())

    @property
    def identity(self) -> dict[str, Any]:
        """What the codes depend on; the path and the name of the dictionary are not part of it."""
        return {
            "dictionary": self.dictionary["sha256"],
            "dataset": self.dataset["fingerprint"],
            **{key: getattr(self, key) for key in ("layer", "tokens", "latent_topk", "dtype")},
            "ignore_labels": list(self.ignore_labels),
            "images": self.images["sha256"],
        }

    @property
    def name(self) -> str:
        """<dataset>-<dictionary>-<hash8>, the directory's name."""
        words = re.sub(r"[^\w.=-]+", "_", f"{self.dataset['name']}-{Path(self.dictionary['path']).name}")
        return f"{words}-{fingerprint(self.identity)[:8]}"


def holds_codes(path: str | os.PathLike) -> bool:
    """Whether it is a directory of codes, complete or not."""
    manifest = Path(path) / FILE
    return manifest.is_file() and json.loads(manifest.read_text()).get("kind") == KIND


def identify(one: SavedDictionary) -> dict[str, str]:
    """`identity_of` a saved dictionary; of one in memory, with its name in place of the path."""
    if one.path is not None:
        return identity_of(one.path)
    if not isinstance(one.dictionary, SparseAutoencoder | Baseline):
        raise ValueError(
            f"{one.name} is a {type(one.dictionary).__name__}: only saev's autoencoders and baselines are encoded."
        )
    with tempfile.TemporaryDirectory() as folder:
        return identity_of(save_dictionary(one.dictionary, folder)) | {"path": one.name}


def identity_of(path: Path) -> dict[str, str]:
    """{path, sha256} of a saved dictionary; the hash is of its weights and its config.json."""
    return {"path": str(path), "sha256": fingerprint({name: sha256(path / name) for name in (WEIGHTS, CONFIG)})}


def numbers_sha256(numbers: Int64[np.ndarray, " n"]) -> str:
    """sha256 of image numbers in ascending order."""
    return hashlib.sha256(np.sort(numbers).astype("<i8").tobytes()).hexdigest()
