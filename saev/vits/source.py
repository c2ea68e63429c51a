"""What every backbone offers the stages before its weights are in memory."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from saev.vits.backbone import Backbone
from saev.vits.shape import VitShape
from saev.vits.sizing import Sizing


@dataclass(kw_only=True)
class VitSource(ABC):
    """A backbone to be had: where its weights are, and what comes out of it. Building one is free."""

    name: str
    """Short name, used in the names of directories."""
    resize: str | None = "crop"
    """crop (centre, aspect kept), squash (whole picture), or flex (a grid of its own for each picture)."""
    n_patches: int | None = None
    """With flex, the most patches a picture may have; None for 256."""
    fit: str | None = None
    """With flex, how a picture fills its grid: stretch (None is the same), crop or pad."""

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

    @property
    def sizing(self) -> Sizing:
        """The three knobs as one value; ValueError where they contradict each other."""
        return Sizing(self.resize or "crop", self.n_patches, self.fit)
