"""The base class of image sets of files below one root; a kind defines the files, their labels and masks."""

import hashlib
import json
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Integer
from PIL import Image

from saev.images.masks import check_masks_open, open_mask
from saev.images.opening import open_rgb
from saev.images.source import ImageSource
from saev.images.tables import Row, shortened
from saev.settings import listed


def no_labels(path: str) -> Row:
    """No label columns."""
    return {}


@dataclass(frozen=True)
class Listing:
    """Contents of a root: images (sorted), their label columns, masks by image; all paths relative."""

    paths: list[str]
    labels: Callable[[str], Row] = no_labels
    masks: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[int, str] = field(default_factory=dict)
    """Names of the masks' ids, if known."""
    from_tables: bool = False
    """Whether labels do not follow from the paths, so that the digest must cover them."""


@dataclass(kw_only=True)
class FileImages(ImageSource):
    """An image set of files below `root`."""

    root: str | os.PathLike | None = field(kw_only=False)

    @abstractmethod
    def listing(self) -> Listing:
        """Contents of `folder`, which exists; ValueError (key, value, remedy) for unexpected contents."""

    def check(self) -> None:
        assert self.paths(), "`listing` raises an error if there are no images"
        if self.labelling:  # reading it checks its options
            check_masks_open(self)

    def paths(self) -> list[str]:
        return self._listing.paths

    @cached_property
    def _listing(self) -> Listing:
        root_folder(self.root)
        return self.listing()

    @property
    def folder(self) -> Path:
        """The root as a path."""
        return Path(self.root or "")

    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        total, masks = hashlib.sha256(), self._listing.masks
        for path in [*self.paths(), *(masks[image] for image in self.paths() if image in masks)]:
            size = self.file(path).stat().st_size if self.file(path).exists() else -1  # a link to nothing: unreadable
            total.update(f"{path}\0{size}\n".encode())
        if self._listing.from_tables:
            labels = [self._listing.labels(path) for path in self.paths()]
            total.update(json.dumps(labels, sort_keys=True).encode())
        return total.hexdigest()

    def file(self, path: str) -> Path:
        """The path of the image with this key."""
        return self.folder / path

    def open(self, index: int) -> Image.Image:
        return open_rgb(self.file(self.paths()[index]))

    def labels(self, index: int) -> dict[str, str | int]:
        return dict(self._listing.labels(self.paths()[index]))

    def mask(self, index: int) -> Integer[np.ndarray, "height width"] | None:
        image = self.paths()[index]
        mask = self._listing.masks.get(image)
        if mask is None or self.labelling is None:
            return None
        return open_mask(self.file(mask), self.file(image), self.labelling.void, (mask, image))


def root_folder(
    root: str | os.PathLike | None, remedy: str = "give your images' folder, images.root=/path/to/photos."
) -> Path:
    """The root as a path; ValueError where it is not set or not a folder."""
    if not root:
        raise ValueError(f"images.root is not set: {remedy}")
    if not Path(root).is_dir():
        raise ValueError(f"images.root={root} is not a folder: {remedy}")
    return Path(root)


def require(root: Path, names: Iterable[str], what: str) -> None:
    """ValueError unless all these files and folders are in `root`; `what` names the source of such a folder."""
    missing = [name for name in names if not (root / name).exists()]
    if not missing:
        return
    below = sorted(path for path in root.iterdir() if path.is_dir())
    nested = [folder for folder in below if all((folder / name).exists() for name in missing)]
    hint = f"did you mean images.root={nested[0]}?" if nested else what
    raise ValueError(f"images.root={root} has no {shortened(missing, 6)}: {hint}")


def choose(key: str, value: str, choices: Iterable[str]) -> str:
    """`value` if it is one of the choices, else ValueError."""
    choices = [*choices]
    if value not in choices:
        raise ValueError(f"images.{key}={value}: choose {listed(choices)}.")
    return value


def leave_out(unmatched: str, what: str) -> None:
    """Rows without files, or files without rows: with images.unmatched=stop raise ValueError, with drop warn."""
    if choose("unmatched", unmatched, ("stop", "drop")) == "stop":
        raise ValueError(f"{what}; or leave them out: images.unmatched=drop.")
    warnings.warn(f"left out (images.unmatched=drop): {what}", stacklevel=2)
