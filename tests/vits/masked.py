"""An image set with masks, made of the photos that tests share."""

from dataclasses import dataclass

import numpy as np

from saev.images import FolderImages
from saev.images.patch_labels import Labelling


def ids_of(index: int, width: int, height: int) -> np.ndarray:
    """Class ids in bands and blocks, more than 256 classes; 999 stands for not annotated."""
    y, x = np.mgrid[:height, :width]
    ids = 300 + 7 * (y // 9) + (x // 13) + index
    return np.where((y + x) % 17 < 2, 999, ids).astype(np.int32)


@dataclass(kw_only=True)
class MaskedPhotos(FolderImages):
    """Photos with masks but for every fifth one; those in `broken` have a mask that cannot be read."""

    name: str = "birds"
    broken: tuple[int, ...] = ()
    shrunk: tuple[int, ...] = ()

    @property
    def labelling(self) -> Labelling | None:
        return Labelling(void=(999,), classes={300: "sky"})

    def mask(self, index: int) -> np.ndarray | None:
        if index in self.broken:
            raise OSError("truncated")
        if index % 5 == 4:
            return None
        width, height = self.open(index).size
        return ids_of(index, width - (index in self.shrunk), height)
