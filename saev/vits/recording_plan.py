"""Contents of a recording, known before weights are loaded: layers, token roles, sizes, meaning, disk space."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saev.images.patch_labels import Labelling
from saev.images.source import ImageSource
from saev.shards.codec import stored_row
from saev.vits.backbone import resolve_layers
from saev.vits.shape import VitShape
from saev.vits.source import VitSource

LABEL_BYTES = 4  # label and fraction of a token
ENTRY_OVERHEAD = 1536  # bytes of tar and npy headers, padding and index per image and layer


@dataclass(frozen=True)
class RecordingPlan:
    """Images x backbone x layers x tokens, and their storage."""

    images: ImageSource
    vit: VitSource
    requested_layers: tuple[int, ...]
    tokens: tuple[str, ...]
    hook: str
    dtype: str
    order: str
    seed: int

    @cached_property
    def shape(self) -> VitShape:
        """Sizes of the backbone at these layers."""
        return self.vit.shape().at(self.layers)

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """True block indices, ascending."""
        return resolve_layers(self.requested_layers, self.vit.shape().depth, f"vit={self.vit.name}")

    @cached_property
    def roles(self) -> dict[str, int]:
        """Tokens per image of the chosen roles, in stored order; -1: it depends on the image.

        Raises ValueError for a role that the backbone does not have.
        """
        roles = {role: n for role, n in self.shape.roles.items() if n}
        if not self.tokens or not {*self.tokens} <= {*roles}:
            available, requested = ", ".join(roles), ",".join(self.tokens)
            raise ValueError(f"record.tokens=[{requested}]: vit={self.vit.name} has {available}; choose among these.")
        return {role: n for role, n in roles.items() if role in self.tokens}

    @property
    def labelling(self) -> Labelling | None:
        """How patches are labelled; None if the set has no masks or patches are not recorded."""
        return self.images.labelling if "patches" in self.roles else None

    @property
    def n_images(self) -> int:
        """Images of the set, readable or not."""
        return len(self.images.paths())

    @property
    def n_tokens(self) -> int:
        """Stored tokens per image; their maximum if it depends on the image."""
        return sum(self.shape.n_patches if n < 0 else n for n in self.roles.values())

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's activations at one layer (maximum)."""
        width, dtype = stored_row(self.shape.d_model, self.dtype)
        return self.n_tokens * width * dtype.itemsize

    @property
    def n_bytes(self) -> int:
        """Bytes on disk of the whole recording, headers and labels included; an upper bound where grids differ."""
        labels = LABEL_BYTES * self.n_tokens if self.labelling else 0
        return self.n_images * (len(self.layers) * (self.image_bytes + ENTRY_OVERHEAD) + labels)

    def examples_per_shard(self, shard_mb: float) -> int:
        """Images whose activations at one layer fill `shard_mb` megabytes, at least one."""
        return max(1, int(shard_mb * 1e6) // self.image_bytes)

    def permutation(self) -> np.ndarray:
        """Image numbers in the order of the recording."""
        rng = np.random.default_rng(self.seed)
        return rng.permutation(self.n_images) if self.order == "shuffled" else np.arange(self.n_images)

    @cached_property
    def meaning(self) -> dict[str, Any]:
        """All that determines the activations, and nothing else: no path, no device, no batch size."""
        images, grid = self.images, self.shape.grid
        # without the names of the classes, which do not change the labels
        labels = {k: v for k, v in self.labelling.info().items() if k != "classes"} if self.labelling else None
        return {
            "images": {"kind": images.kind, "name": images.name, "digest": images.digest(), "n": self.n_images},
            "vit": {"name": self.vit.name, "depth": self.shape.depth, **self.vit.identity()},
            "hook": self.hook,
            "layers": list(self.layers),
            "roles": self.roles,
            "grid": list(grid) if grid else None,
            "dtype": self.dtype,
            "order": {"kind": self.order, "seed": self.seed if self.order == "shuffled" else None},
            **({"labels": labels} if labels else {}),
        }


def as_tuple(value: Sequence[Any] | int | str | None) -> tuple[Any, ...]:
    """One value, several or none as a tuple.

    >>> as_tuple(8), as_tuple([3, 8]), as_tuple("cls"), as_tuple(None)
    ((8,), (3, 8), ('cls',), ())
    """
    if value is None:
        return ()
    return (value,) if isinstance(value, int | str) else tuple(value)


def check_disk(root: Path, directory: Path, n_bytes: int) -> None:
    """ValueError where `root` is not writable or too small for n_bytes, less what `directory` contains already."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            free = shutil.disk_usage(root).free
    except OSError as error:
        raise ValueError(f"record.root={root} cannot be written ({error.strerror}): choose another folder.") from error
    needed = n_bytes - sum(file.stat().st_size for file in directory.glob("layer-*/*.tar"))
    if needed > free:
        raise ValueError(
            f"record.root={root} has {free / 1e9:.3g} GB free, the recording needs {needed / 1e9:.3g} GB: choose "
            "another disk (record.root=/big/disk), fewer layers, or record.dtype=float16 or int8."
        )
