"""What every image set offers the stages: a sorted list of files, their labels, and how to open one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer
from PIL import Image

from saev.images.patch_labels import Labelling


@dataclass(kw_only=True)
class ImageSource(ABC):
    """An image set. Image i is `paths()[i]`; nothing is read before `check`, so building one is free."""

    name: str
    """Short name, used in the names of directories."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """What sort of set this is (folder, demo, ...), as the manifest records it."""

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError (key, value, remedy) where the images are not there; fetches what can be fetched."""

    @abstractmethod
    def paths(self) -> list[str]:
        """Paths relative to the set's root, with forward slashes, sorted: the images' keys."""

    @abstractmethod
    def digest(self) -> str:
        """sha256 (hex) of the sorted relative paths and the files' sizes in bytes."""

    @abstractmethod
    def open(self, index: int) -> Image.Image:
        """Image `index` upright and in RGB; raises OSError naming the file where it cannot be read."""

    @abstractmethod
    def labels(self, index: int) -> dict[str, str | int]:
        """Label columns of image `index`; the same columns for every image of a set, {} where there are none."""

    @property
    def labelling(self) -> Labelling | None:
        """How the set's masks become patch labels; None where it has no masks."""
        return None

    def mask(self, index: int) -> Integer[np.ndarray, "height width"] | None:
        """Class id of each pixel of `open(index)`, upright as it is; None where image `index` has no mask."""
        return None

    @abstractmethod
    def credits(self) -> str:
        """A paragraph of attribution to print beside the images; "" where none is owed."""
