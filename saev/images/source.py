"""What every image set offers the stages: a sorted list of files, their labels, and how to open one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from PIL import Image


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

    @abstractmethod
    def credits(self) -> str:
        """A paragraph of attribution to print beside the images; "" where none is owed."""
