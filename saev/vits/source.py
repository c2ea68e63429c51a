"""What every backbone offers the stages before its weights are in memory."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from saev.vits.anatomy import VitShape
from saev.vits.backbone import Backbone
from saev.vits.transform import ImageTransform


@dataclass(kw_only=True)
class VitSource(ABC):
    """A vision transformer to be had: where its weights are, and what comes out of it. Building one is free."""

    name: str
    """Short name, used in the names of directories."""

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError with the remedies, within seconds, where the weights cannot be had."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON-able description of weights and geometry: two sources with equal identities compute the same."""

    @abstractmethod
    def shape(self) -> VitShape:
        """Width, depth, tokens and grid, found out without weights and within a second."""

    @abstractmethod
    def load(self, device: str = "cpu") -> Backbone:
        """The backbone with its weights, on `device`, in eval mode, taking no gradients."""


def geometry(shape: VitShape, transform: ImageTransform) -> dict[str, Any]:
    """The part of an identity that says how pictures become tokens."""
    return {
        "image_size": list(shape.image_size),
        "grid": list(shape.grid),
        "resize": transform.resize,
        "interpolation": transform.interpolation,
        "mean": list(transform.mean),
        "std": list(transform.std),
        "d_model": shape.d_model,
        "depth": shape.depth,
    }
