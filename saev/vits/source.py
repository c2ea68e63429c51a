"""The interface of backbones before their weights are loaded."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from saev.vits import checkpoint
from saev.vits.backbone import Backbone, Readable
from saev.vits.random_weights import check_seed, random_identity, random_name, with_random_weights
from saev.vits.shape import VitShape
from saev.vits.sizing import Sizing, Transform, geometry


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


@dataclass(kw_only=True)
class ModelSource(VitSource):
    """A model of a library by its name; weights from the hub, its local cache, or a local file."""

    library: ClassVar[str]
    arch: str | None = field(kw_only=False)
    """The library's name of the model."""
    checkpoint: str | None = None
    """A local file of weights, with the library's keys or keys that it can map."""
    img_size: int | Sequence[int] | None = None
    """Pixels (height, width), a multiple of the patch size; None for the training size; ignored with flex."""
    random_weights: bool = False
    """New weights, drawn from `seed`, instead of trained ones; gates of residual branches (LayerScale) are 1."""
    seed: int = 0
    """Of random weights."""

    def __post_init__(self):
        self.name = self.name or str(self.arch)
        if self.random_weights:
            self.name = random_name(self.name, self.seed)

    @abstractmethod
    def _build(self) -> Any:
        """The model at its size, with new weights."""

    def _randomised(self) -> Any:
        """The model at its size, with the weights of `random_weights`."""
        return with_random_weights(self._build, self.seed)

    @abstractmethod
    def _parts(self, model: Any) -> tuple[Readable, Transform]:
        """The readable parts of a built model and its transform of images."""

    @abstractmethod
    def _check_hub(self) -> None:
        """ValueError where neither the hub nor its local cache has the weights."""

    @cached_property
    def _skeleton(self) -> Any:
        """The model without its weights (meta device): 0.1 s for any size."""
        with torch.device("meta"):
            return self._build()

    def check(self) -> None:
        self._file()
        self.shape()
        if not (self.checkpoint or self.random_weights):
            self._check_hub()

    def shape(self) -> VitShape:
        return self._parts(self._skeleton)[0].shape

    def identity(self) -> dict[str, Any]:
        file = self._file()
        parts, transform = self._parts(self._skeleton)
        weights = f"sha256:{checkpoint.digest(file)}" if file else self._published
        weights = random_identity(self.seed, self.library) if self.random_weights else weights
        return {"library": self.library, "arch": self.arch, "weights": weights} | geometry(parts.shape, transform)

    def _file(self) -> Path | None:
        """The local file of weights; ValueError where it is missing, or random ones are asked for too, or their seed alone."""
        check_seed(self.random_weights, self.seed)
        if self.checkpoint and self.random_weights:
            raise ValueError(f"vit.random_weights=true beside vit.checkpoint={self.checkpoint}: drop one of them.")
        return checkpoint.check_file(self.checkpoint) if self.checkpoint else None

    @property
    def _published(self) -> str | None:
        """The name of the weights that are not in a local file."""
        return "pretrained"
