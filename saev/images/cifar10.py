"""CIFAR-10's binary version (cifar-10-binary.tar.gz); the Python version consists of pickles, which are never read.

A file consists of records of 3073 bytes: the class, then 32 x 32 red, green and blue values, row by row.
"""

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from saev.images.files import choose, require, root_folder
from saev.images.source import ImageSource

SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE
FILES = {"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)}
CLASSES = "batches.meta.txt"
REMEDY = (
    "unpack cifar-10-binary.tar.gz and give its folder, images.root=/data/cifar-10-batches-bin (the Python version, "
    "cifar-10-batches-py, consists of pickles, which are not read)."
)


@dataclass(kw_only=True)
class Cifar10(ImageSource):
    """CIFAR-10: 32 x 32 photos of 10 classes; columns class, class_id and split. A key is file/record number."""

    root: str | os.PathLike | None = field(kw_only=False)
    split: str = "all"
    name: str = "cifar10"

    @property
    def kind(self) -> str:
        return "cifar10"

    def check(self) -> None:
        assert self.paths(), "every file has at least one record"

    @property
    def folder(self) -> Path:
        """The root as a path."""
        return Path(self.root or "")

    @cached_property
    def _class_ids(self) -> dict[str, np.ndarray]:
        """The classes of each file's records; ValueError where a file is missing or not one of CIFAR-10's."""
        choose("split", self.split, [*FILES, "all"])
        files = [file for split, files in FILES.items() if self.split in ("all", split) for file in files]
        require(root_folder(self.root, REMEDY), [*files, CLASSES], REMEDY)
        return {file: self._classes_of(file) for file in files}

    def _classes_of(self, file: str) -> np.ndarray:
        size, n_classes = (self.folder / file).stat().st_size, len(self._classes)
        records = np.fromfile(self.folder / file, np.uint8)[: size - size % RECORD].reshape(-1, RECORD)
        if not size or size % RECORD or records[:, 0].max() >= n_classes:
            why = (
                f"its {size} bytes are not records of {RECORD}"
                if size % RECORD or not size
                else f"more than {n_classes} classes"
            )
            raise ValueError(f"images.root={self.root}: {file} is not CIFAR-10's ({why}): {REMEDY}")
        return records[:, 0].copy()

    @cached_property
    def _paths(self) -> list[str]:
        return [f"{file}/{n:05d}" for file, ids in self._class_ids.items() for n in range(len(ids))]

    @cached_property
    def _classes(self) -> list[str]:
        return (self.folder / CLASSES).read_text().split()

    def paths(self) -> list[str]:
        return self._paths

    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        total = hashlib.sha256()  # of the contents, because the sizes are always the same
        for file in self._class_ids:
            with open(self.folder / file, "rb") as records:
                total.update(hashlib.file_digest(records, "sha256").digest())
        return total.hexdigest()

    def open(self, index: int) -> Image.Image:
        file, number = self.paths()[index].split("/")
        with open(self.folder / file, "rb") as records:  # a handle per call, as threads read at the same time
            records.seek(int(number) * RECORD + 1)
            pixels = records.read(RECORD - 1)
        if len(pixels) < RECORD - 1:
            raise OSError(f"{self.paths()[index]}: the file ends within this record")
        planes = np.frombuffer(pixels, np.uint8).reshape(3, SIDE, SIDE)
        return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))

    def labels(self, index: int) -> dict[str, str | int]:
        file, number = self.paths()[index].split("/")
        class_id = int(self._class_ids[file][int(number)])
        split = next(split for split, files in FILES.items() if file in files)
        return {"class": self._classes[class_id], "class_id": class_id, "split": split}
