"""Sets of image files below one root: a kind says which files, with which labels and masks; the rest is the same."""

import glob
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

from saev.images.decoding import open_rgb
from saev.images.masks import check_masks_open, open_mask
from saev.images.source import ImageSource
from saev.images.tables import Row, some

# fmt: off
EXTENSIONS = {
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
}
# fmt: on


def no_labels(path: str) -> Row:
    """Labels of an image without any."""
    return {}


@dataclass(frozen=True)
class Listing:
    """What there is below a root: images (sorted), the label columns of each, masks by image; all relative paths."""

    paths: list[str]
    labels: Callable[[str], Row] = no_labels
    masks: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[int, str] = field(default_factory=dict)
    """Names of the masks' ids, where they are known."""
    from_tables: bool = False
    """Whether labels say more than the paths do, so that the digest has to cover them."""


@dataclass(kw_only=True)
class FileImages(ImageSource):
    """An image set of files below `root`."""

    root: str | None

    @abstractmethod
    def listing(self) -> Listing:
        """What is below `folder`, which is there; ValueError (key, value, remedy) where it is not as expected."""

    def check(self) -> None:
        assert self.paths(), "a kind says itself what it misses"
        if self.labelling:  # checks its options
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
            total.update(f"{path}\0{self.file(path).stat().st_size}\n".encode(errors="surrogateescape"))
        if self._listing.from_tables:
            labels = [self._listing.labels(path) for path in self.paths()]
            total.update(json.dumps(labels, sort_keys=True).encode())
        return total.hexdigest()

    def file(self, path: str) -> Path:
        """Where the image with this key lies."""
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

    def credits(self) -> str:
        return ""


def root_folder(root: str | None, remedy: str = "give your images' folder, images.root=/path/to/photos.") -> Path:
    """The root as a path; ValueError where it is not set or no folder."""
    if not root:
        raise ValueError(f"images.root is not set: {remedy}")
    if not Path(root).is_dir():
        raise ValueError(f"images.root={root} is not a folder: {remedy}")
    return Path(root)


def find(root: str | Path, pattern: str = "**/*", extensions: Iterable[str] = EXTENSIONS) -> list[str]:
    """Files below root that a glob matches, by their paths relative to it, sorted; links followed, hidden ones not."""
    found = glob.iglob(pattern, root_dir=root, recursive=True)
    return sorted(Path(p).as_posix() for p in found if os.path.splitext(p)[1].lower() in extensions)


def require(root: Path, names: Iterable[str], what: str) -> None:
    """ValueError unless all these files and folders are in `root`; `what` says where such a folder is to be had."""
    missing = [name for name in names if not (root / name).exists()]
    if not missing:
        return
    below = sorted(path for path in root.iterdir() if path.is_dir())
    nested = [folder for folder in below if all((folder / name).exists() for name in missing)]
    hint = f"did you mean images.root={nested[0]}?" if nested else what
    raise ValueError(f"images.root={root} has no {some(missing, 6)}: {hint}")


def choose(key: str, value: str, choices: Iterable[str]) -> str:
    """`value` if it is one of the choices, else ValueError."""
    choices = [*choices]
    if value not in choices:
        raise ValueError(f"images.{key}={value} is not there: choose {' or '.join(choices)}.")
    return value


def leave_out(unmatched: str, what: str) -> None:
    """What a set does about rows without files, or files without rows: images.unmatched=stop raises, drop warns."""
    if choose("unmatched", unmatched, ("stop", "drop")) == "stop":
        raise ValueError(f"{what}; or go without: images.unmatched=drop.")
    warnings.warn(f"left out (images.unmatched=drop): {what}", stacklevel=2)
