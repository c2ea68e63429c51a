"""What a recording will hold, worked out before any weight is loaded: layers, token roles, sizes, meaning."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from saev.images.source import ImageSource
from saev.vits.backbone import resolve_layers
from saev.vits.shape import VitShape
from saev.vits.source import VitSource

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
        """Sizes of the backbone."""
        return self.vit.shape()

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """True block indices, ascending."""
        return resolve_layers(self.asked_layers, self.shape.depth, f"vit={self.vit.name}")

    @cached_property
    def roles(self) -> dict[str, int]:
        """Tokens per image of the chosen roles, in stored order; ValueError for one that the backbone has not."""
        there = {role: n for role, n in self.shape.roles.items() if n}
        for role in self.tokens or ("",):
            if role not in there:
                has, asked = ", ".join(there), ",".join(self.tokens)
                raise ValueError(f"record.tokens=[{asked}]: vit={self.vit.name} has {has}; choose among these.")
        return {role: n for role, n in there.items() if role in self.tokens}

    @property
    def n_images(self) -> int:
        """Images of the set, readable or not."""
        return len(self.images.paths())

    @property
    def n_tokens(self) -> int:
        """Tokens stored per image."""
        return sum(self.roles.values())

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's activations at one layer."""
        return self.n_tokens * self.shape.d_model * np.dtype(self.dtype).itemsize

    @property
    def n_bytes(self) -> int:
        """Bytes on disk of the whole recording, headers included."""
        return self.n_images * len(self.layers) * (self.image_bytes + MEMBER_OVERHEAD)

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
        images = self.images
        return {
            "images": {"kind": images.kind, "name": images.name, "digest": images.digest(), "n": self.n_images},
            "vit": {"name": self.vit.name, "depth": self.shape.depth, **self.vit.identity()},
            "hook": self.hook,
            "layers": list(self.layers),
            "roles": self.roles,
            "grid": list(self.shape.grid),
            "dtype": self.dtype,
            "order": {"kind": self.order, "seed": self.seed if self._shuffled else None},
        }


def as_tuple(value: Sequence[Any] | int | str | None) -> tuple[Any, ...]:
    """A knob that may be one value, several or none, as a tuple.

    >>> as_tuple(8), as_tuple([3, 8]), as_tuple("cls"), as_tuple(None)
    ((8,), (3, 8), ('cls',), ())
    """
    if value is None:
        return ()
    return (value,) if isinstance(value, int | str) else tuple(value)
