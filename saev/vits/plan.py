"""What a recording will hold, worked out before any weight is loaded: layers, token roles, sizes, meaning."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from saev.images.patch_labels import Labelling
from saev.images.source import ImageSource
from saev.shards.codec import stored_row
from saev.vits.backbone import resolve_layers
from saev.vits.shape import VitShape
from saev.vits.source import VitSource

LABEL_BYTES = 4  # label and fraction of a token
MEMBER_OVERHEAD = 1536  # bytes of tar and npy headers, padding and index per image and layer


@dataclass(frozen=True)
class Plan:
    """Images x backbone x layers x tokens, and how they are stored."""

    images: ImageSource
    vit: VitSource
    asked_layers: tuple[int, ...]
    tokens: tuple[str, ...]
    hook: str
    dtype: str
    order: str
    seed: int

    @cached_property
    def shape(self) -> VitShape:
        """Sizes of the backbone at the layers."""
        return self.vit.shape().at(self.layers)

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """True block indices, ascending."""
        return resolve_layers(self.asked_layers, self.vit.shape().depth, f"vit={self.vit.name}")

    @cached_property
    def roles(self) -> dict[str, int]:
        """Tokens per image of the chosen roles, in stored order; -1: it depends on the image.

        Raises ValueError for a role that the backbone has not.
        """
        there = {role: n for role, n in self.shape.roles.items() if n}
        for role in self.tokens or ("",):
            if role not in there:
                has, asked = ", ".join(there), ",".join(self.tokens)
                raise ValueError(f"record.tokens=[{asked}]: vit={self.vit.name} has {has}; choose among these.")
        return {role: n for role, n in there.items() if role in self.tokens}

    @property
    def labelling(self) -> Labelling | None:
        """How patches are labelled; None where the set has no masks, or patches are not recorded."""
        return self.images.labelling if "patches" in self.roles else None

    @property
    def n_images(self) -> int:
        """Images of the set, readable or not."""
        return len(self.images.paths())

    @property
    def n_tokens(self) -> int:
        """Tokens stored per image; the most there may be where it depends on the image."""
        return sum(self.shape.n_patches if n < 0 else n for n in self.roles.values())

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's activations at one layer, at most."""
        width, dtype = stored_row(self.shape.d_model, self.dtype)
        return self.n_tokens * width * dtype.itemsize

    @property
    def n_bytes(self) -> int:
        """Bytes on disk of the whole recording, headers and labels included; an upper bound where grids differ."""
        labels = LABEL_BYTES * self.n_tokens if self.labelling else 0
        return self.n_images * (len(self.layers) * (self.image_bytes + MEMBER_OVERHEAD) + labels)

    def examples_per_shard(self, shard_mb: float) -> int:
        """Images whose activations at one layer fill `shard_mb` megabytes, at least one."""
        return max(1, int(shard_mb * 1e6) // self.image_bytes)

    def permutation(self) -> np.ndarray:
        """Image number at each place of the recording."""
        return (
            np.random.default_rng(self.seed).permutation(self.n_images) if self._shuffled else np.arange(self.n_images)
        )

    @property
    def _shuffled(self) -> bool:
        return self.order == "shuffled"

    @cached_property
    def meaning(self) -> dict[str, Any]:
        """What decides the activations, and nothing that does not: no path, no device, no batch size."""
        images, grid = self.images, self.shape.grid
        # the names of the classes are no part of it: they change no label
        labels = {k: v for k, v in self.labelling.info().items() if k != "classes"} if self.labelling else None
        return {
            "images": {"kind": images.kind, "name": images.name, "digest": images.digest(), "n": self.n_images},
            "vit": {"name": self.vit.name, "depth": self.shape.depth, **self.vit.identity()},
            "hook": self.hook,
            "layers": list(self.layers),
            "roles": self.roles,
            "grid": list(grid) if grid else None,
            "dtype": self.dtype,
            "order": {"kind": self.order, "seed": self.seed if self._shuffled else None},
            **({"labels": labels} if labels else {}),
        }


def as_tuple(value: Sequence[Any] | int | str | None) -> tuple[Any, ...]:
    """A knob that may be one value, several or none, as a tuple.

    >>> as_tuple(8), as_tuple([3, 8]), as_tuple("cls"), as_tuple(None)
    ((8,), (3, 8), ('cls',), ())
    """
    if value is None:
        return ()
    return (value,) if isinstance(value, int | str) else tuple(value)
