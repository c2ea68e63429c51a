"""The sources of traits by their settings: what a notebook writes, what conf/traits/*.yaml builds."""

import dataclasses
import typing
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Int64

from saev.settings import bounded, check

if TYPE_CHECKING:
    from saev.shards import ActivationStore
    from saev.trait_evaluation.table import TokenTraits, TraitTable

AWA2 = "predicate-matrix-binary.txt"
MATRIX = f"a csv or tsv with a row per class, or AwA2's folder (with {AWA2}, classes.txt and predicates.txt)"


@dataclasses.dataclass(frozen=True)
class TraitSource:
    """Settings of a source of traits; a subclass declares the fields, which are the keys traits.* of the command line."""

    kind: ClassVar[str]  # saev.trait_evaluation.sources.<kind> has its function `table`
    unit: ClassVar[Literal["image", "token"]]

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, types = getattr(self, field.name), (field.type, *typing.get_args(field.type))
            if value is not None and tuple in map(typing.get_origin, types):
                several = isinstance(value, Sequence) and not isinstance(value, str)
                object.__setattr__(self, field.name, tuple(value) if several else (value,))
        check(self, "traits.")

    def check(self) -> None:
        """ValueError (key, value, remedy) for settings and files that fit no recording."""


@dataclasses.dataclass(frozen=True)
class ImageTraits(TraitSource):
    """A source of the traits of images."""

    unit = "image"

    def table(self, store: "ActivationStore", examples: Int64[np.ndarray, " images"]) -> "TraitTable":
        """A row per given image of the recording, in that order.

        The traits do not depend on which images are given. ValueError where the source and the recording do not fit.
        """
        self.check()
        return import_module(f"saev.trait_evaluation.sources.{self.kind}").table(self, store, examples)


@dataclasses.dataclass(frozen=True)
class Columns(ImageTraits):
    """Columns of examples.parquet: one of 1 and 0 (or true and false) is a trait, another has a trait `column=value` per value.

    Empty fields, NA and ? are unknown: for all traits of their column.
    """

    kind = "columns"
    columns: tuple[str, ...] = ()
    max_values: int = bounded(1000, at_least=2)  # of a column, which otherwise is refused

    def check(self) -> None:
        if not self.columns:
            raise ValueError(
                "traits.columns=[]: give columns of the recording's examples.parquet, e.g. traits.columns=[sex,habitat]."
            )


@dataclasses.dataclass(frozen=True)
class Table(ImageTraits):
    """A csv or tsv with a header, a row per image and a column per trait: 1 or 0 (or true or false), empty or NA: unknown.

    Rows name images by path, an ending of it, or the file name with or without extension. Traits of images without a row are
    unknown.
    """

    kind = "tables"
    path: str | None = None
    key: str = ""  # column with the images' names; "": the first
    ignore: tuple[str, ...] = ()  # columns that are no traits
    min_labelled: float = bounded(0.5, at_least=0, at_most=1)  # of the recording's images must have a row

    def check(self) -> None:
        if not self.path:
            raise ValueError(
                "traits.path is not set: give a csv or tsv with a row per image, traits.path=/path/to/traits.csv."
            )
        if not Path(self.path).is_file():
            raise ValueError(f"traits.path={self.path} is not a file: give a csv or tsv with a row per image.")


@dataclasses.dataclass(frozen=True)
class Matrix(ImageTraits):
    """The attributes of each class (1, 0 or empty: unknown): AwA2's folder, or a csv or tsv with a header and a row per class.

    Names of classes are compared without regard to case, and _, + and - as blanks, without a leading number such as "001.".
    Attributes that are the same in all classes of the recording are left out.
    """

    kind = "matrix"
    path: str | None = None
    column: str = "class"  # of examples.parquet: the class of each image
    key: str = ""  # of a csv or tsv: the column with the names of classes; "": the first
    ignore: tuple[str, ...] = ()  # of a csv or tsv: columns that are no traits
    missing: Literal["refuse", "unknown"] = "refuse"  # classes of the recording that are not in the matrix

    def check(self) -> None:
        if not self.path:
            raise ValueError(f"traits.path is not set: give {MATRIX}, traits.path=/path/to/matrix.csv.")
        if not Path(self.path).is_file():
            files = [[*Path(self.path).glob(f"*{name}")] for name in (AWA2, "classes.txt", "predicates.txt")]
            if len(files[0]) != 1 or not all(files):
                raise ValueError(f"traits.path={self.path} is neither {MATRIX}.")


@dataclasses.dataclass(frozen=True)
class Cub200(ImageTraits):
    """The attributes of CUB-200-2011, from the first four fields of each line of image_attribute_labels.txt.

    labels:
        masked    present if is_present and certainty is 3 or 4, unknown where certainty is below 3
        saev      the same, but absent where certainty is below 3
        present   is_present, whatever the certainty
        class     is_present in more than half of the images of the class (its folder in images.txt), whatever the certainty
    """

    kind = "cub200"
    root: str | None = None  # CUB_200_2011, or the folder that contains it and attributes.txt
    labels: Literal["masked", "saev", "present", "class"] = "masked"

    def check(self) -> None:
        from saev.trait_evaluation.sources.cub200 import FILES, file_of

        for name in FILES:
            file_of(self.root, name)


@dataclasses.dataclass(frozen=True)
class Presence(ImageTraits):
    """Whether a class is in an image: `min_fraction` of its labelled patches, and at least one, are of the class.

    Unknown in images without a labelled patch.
    """

    kind = "patches"
    classes: tuple[int | str, ...] | None = None  # names or ids; None: all that occur
    ignore_labels: tuple[int | str, ...] = ()  # names or ids: patches of these count as not labelled
    min_fraction: float = bounded(0.01, at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class Masks(TraitSource):
    """The class of a token, one against the rest: a unit is a labelled patch, a trait is a class."""

    kind = "patches"
    unit = "token"
    classes: tuple[int | str, ...] | None = (
        None  # names or ids; None: all that occur. Tokens of the others are negatives
    )
    ignore_labels: tuple[int | str, ...] = ()  # names or ids: patches of these are left out

    def table(self, store: "ActivationStore", examples: Int64[np.ndarray, " images"], layer: int) -> "TokenTraits":
        """The labelled patches of the given images by image and position, and the traits of each."""
        from saev.trait_evaluation.sources.patches import token_table

        return token_table(self, store, examples, layer)
