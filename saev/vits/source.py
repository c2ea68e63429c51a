"""The interface of backbones before their weights are loaded."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from saev.vits.backbone import Backbone
from saev.vits.shape import VitShape
from saev.vits.sizing import Sizing


@dataclass(kw_only=True)
class VitSource(ABC):
    """The settings of a backbone; creating one loads nothing."""

    name: str = ""
    """Short name, used in the names of directories."""
    resize: str | None = "crop"
    """crop (centre, aspect kept), squash (whole image), or flex (a grid per image)."""
    n_patches: int | None = None
    """With flex, the maximal number of patches per image; None for 256."""
    fit: str | None = None
    """With flex, how an image fills its grid: stretch (None is the same), crop or pad."""

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError with the remedies, within seconds, where the weights are not available."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON-able description of weights and geometry: sources with equal identities compute the same activations."""

    @abstractmethod
    def shape(self) -> VitShape:
        """Width, depth, tokens and grid, without loading weights, within a second."""

    @abstractmethod
    def load(self, device: str = "cpu") -> Backbone:
        """The backbone with its weights, on `device`, in eval mode, without gradients."""

    @property
    def sizing(self) -> Sizing:
        """resize, n_patches and fit; ValueError where they contradict each other."""
        return Sizing(self.resize or "crop", self.n_patches, self.fit)
