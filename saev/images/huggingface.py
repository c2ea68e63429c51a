"""Hugging Face data sets by their name on the hub or from a local folder; needs the extra `hub`."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Integer
from PIL import Image

from saev.images.hub import load
from saev.images.masked import MaskOptions
from saev.images.masks import check_masks_open, open_mask
from saev.images.opening import open_rgb
from saev.images.patch_labels import Labelling
from saev.images.source import ImageSource
from saev.images.tables import label_name


@dataclass(kw_only=True)
class HuggingFaceImages(MaskOptions, ImageSource):
    """A split of a data set; a key is split/row number."""

    path: str | None = field(kw_only=False)
    """Name on the hub, or a folder: saved by save_to_disk, of parquet files, or of images."""
    config: str | None = None
    split: str = "train"
    image_column: str = ""
    """Column of the images; empty if there is only one."""
    label_columns: Sequence[str] | None = None
    """Columns to keep as labels; null for those whose classes have names."""
    mask_column: str = ""
    name: str = ""

    def __post_init__(self):
        self.name = self.name or (self.path or "huggingface").rstrip("/").rpartition("/")[2]

    @property
    def kind(self) -> str:
        return "huggingface"

    def check(self) -> None:
        labelling, _ = self.labelling, (self._pictures, self._labels)
        if not self.paths():
            raise ValueError(f"images.path={self.path}: images.split={self.split} has no rows; choose another split.")
        if labelling:
            check_masks_open(self)

    @cached_property
    def _data(self) -> Any:
        return load(self.path, self.config, self.split)

    @cached_property
    def _columns(self) -> tuple[str, str]:
        """The columns of images and masks; "" for no masks."""
        features = self._data.features  # raises the error if `datasets` is missing
        import datasets

        pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        rest = [name for name in pictures if name != self.mask_column]
        mask = self._choose("mask_column", self.mask_column, pictures) if self.mask_column else ""
        return self._choose("image_column", self.image_column, rest), mask

    def _choose(self, key: str, name: str, suitable: Sequence[str]) -> str:
        columns = [name] if name in suitable else [] if name else [*suitable]
        if len(columns) != 1:
            raise ValueError(
                f"images.{key}={name or 'null'}: of the columns of images.path={self.path} ("
                f"{', '.join(self._data.column_names)}), {', '.join(suitable) or 'none'} will do; name one, images.{key}=NAME."
            )
        return columns[0]

    @cached_property
    def _pictures(self) -> Any:
        """The images and masks, as bytes or paths, not decoded."""
        data = self._data.select_columns([column for column in self._columns if column])
        import datasets

        for column in data.column_names:
            data = data.cast_column(column, datasets.Image(decode=False))
        return data

    @cached_property
    def _labels(self) -> Any:
        """Only the label columns, so that reading them reads no image."""
        features = self._data.features
        import datasets

        named = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        plain = [column for column, f in features.items() if isinstance(f, datasets.ClassLabel | datasets.Value)]
        columns = named if self.label_columns is None else self.label_columns
        return self._data.select_columns([self._choose("label_columns", column, plain) for column in columns])

    @cached_property
    def _integers(self) -> frozenset[str]:
        """Label columns of integers without missing values."""
        table = self._labels.data
        return frozenset(
            name for name in table.column_names
            if re.match(r"u?int|bool", str(table.schema.field(name).type)) and not table.column(name).null_count
        )  # fmt: skip

    def paths(self) -> list[str]:
        return self._paths

    @cached_property
    def _paths(self) -> list[str]:
        split = re.sub(r"[^\w.-]+", "_", self.split)
        return [f"{split}/{row:08d}" for row in range(len(self._data))]

    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        total = hashlib.sha256("\0".join([*self._columns, *self._labels.column_names]).encode())
        for data, cells in ((self._pictures, sizes), (self._labels, texts)):
            for batch in data.with_format("arrow").iter(batch_size=1000) if data.column_names else ():
                total.update(json.dumps([cells(batch[name]) for name in batch.column_names]).encode())
        return total.hexdigest()

    def _file(self, index: int, column: str) -> str | bytes:
        cell = self._pictures[index][column] or {}
        return cell.get("bytes") or cell.get("path") or b""

    def open(self, index: int) -> Image.Image:
        return open_rgb(self._file(index, self._columns[0]), self.paths()[index])

    @property
    def labelling(self) -> Labelling | None:
        return self.labelling_of({}) if self.mask_column else None

    def mask(self, index: int) -> Integer[np.ndarray, "height width"] | None:
        image, column = self._columns
        mask = self._file(index, column) if column else b""
        if not mask or self.labelling is None:
            return None
        key = self.paths()[index]
        return open_mask(mask, self._file(index, image), self.labelling.void, (f"{key} ({column})", f"{key} ({image})"))

    def labels(self, index: int) -> dict[str, str | int]:
        features, labels = self._labels.features, {}
        for column, value in self._labels[index].items() if features else ():
            if names := getattr(features[column], "names", None):
                class_id = -1 if value is None else value  # data sets use -1 for an unknown class
                labels |= {label_name(column): "" if class_id < 0 else names[class_id], f"{column}_id": class_id}
            elif column in self._integers:
                labels[label_name(column)] = int(value)
            else:
                labels[label_name(column)] = "" if value is None else str(value)
        return labels


def sizes(pictures: Any) -> list[int]:
    """Bytes of each image of an arrow column, without reading images stored in it."""
    import pyarrow.compute as pc

    cells = pictures.combine_chunks()
    stored = pc.call_function("binary_length", [cells.field("bytes")]).to_pylist()
    files = cells.field("path").to_pylist()
    return [os.path.getsize(f) if n is None and f else n or 0 for n, f in zip(stored, files, strict=True)]


def texts(labels: Any) -> list[str]:
    """The values of an arrow column as text."""
    return [str(value) for value in labels.to_pylist()]
