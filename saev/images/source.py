"""The interface of image sets: a sorted list of files, their labels, and opening an image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer
from PIL import Image

from saev.images.patch_labels import Labelling


@dataclass(kw_only=True)
class ImageSource(ABC):
    """An image set. Image i is `paths()[i]`; creating one reads nothing."""

    name: str
    """Short name, used in the names of directories."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The kind of image set (folder, demo, ...), for the manifest."""

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError (key, value, remedy) where the images are missing; fetches the demo's images."""

    @abstractmethod
    def paths(self) -> list[str]:
        """The images' keys: paths relative to the set's root, with forward slashes, sorted."""

    def indices(self, keys: Sequence[str], recording: str) -> list[int]:
        """The index of each recorded image's key; ValueError where one is not in this set."""
        index = {path: i for i, path in enumerate(self.paths())}
        if missing := [key for key in keys if key not in index]:
            raise ValueError(
                f"images={self.name} does not have {len(missing)} of {len(keys)} images of {recording}, e.g. {missing[0]}: give "
                "the image set that was recorded, as for `saev record`."
            )
        return [index[key] for key in keys]

    @abstractmethod
    def digest(self) -> str:
        """sha256 (hex) of the sorted relative paths and the files' sizes in bytes."""

    @abstractmethod
    def open(self, index: int) -> Image.Image:
        """Image `index`, upright RGB; OSError naming the file where it cannot be read."""

    @abstractmethod
    def labels(self, index: int) -> dict[str, str | int]:
        """Label columns of image `index`, the same columns for every image of a set; {} without labels."""

    @property
    def labelling(self) -> Labelling | None:
        """How the set's masks become patch labels; None without masks."""
        return None

    def mask(self, index: int) -> Integer[np.ndarray, "height width"] | None:
        """Class id of each pixel of `open(index)`; None if image `index` has no mask."""
        return None

    def credits(self) -> str:
        """A paragraph of attribution to print beside the images; "" if none is required."""
        return ""
