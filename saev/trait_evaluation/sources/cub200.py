"""Traits of CUB-200-2011: 312 attributes, annotated in every image."""

from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int8, Int64

from saev.files import read_csv
from saev.images.tables import read_table, shortened
from saev.shards import ActivationStore
from saev.trait_evaluation.sources.settings import Cub200
from saev.trait_evaluation.table import TraitTable

FILES = IMAGES, ATTRIBUTES, LABELS = "images.txt", "attributes.txt", "image_attribute_labels.txt"
FIELDS = ("image_id", "attribute_id", "is_present", "certainty_id")
VISIBLE = 3  # certainty: 1 not visible, 2 guessing, 3 probably, 4 definitely
Labels = Int8[np.ndarray, "images attributes"]


def table(settings: Cub200, store: ActivationStore, examples: Int64[np.ndarray, " images"]) -> TraitTable:
    """The attributes, in the order of attributes.txt."""
    images, attributes = (ids_and_names(file_of(settings.root, name)) for name in (IMAGES, ATTRIBUTES))
    present, certainty = read_labels(file_of(settings.root, LABELS), [*images], [*attributes])
    if settings.labels == "present":
        values = present
    elif settings.labels == "class":
        values = majorities(present, [path.rpartition("/")[0] for path in images.values()])
    else:
        values = np.where(certainty >= VISIBLE, present, np.int8(-1 if settings.labels == "masked" else 0))
    row, ids = {id: i for i, id in enumerate(images)}, ids_of(settings.root, store, images)
    return TraitTable(tuple(attributes.values()), values[[row[ids[i]] for i in examples]])


def majorities(present: Labels, classes: list[str]) -> Labels:
    """1 where more than half of the images of the class have the attribute."""
    _, kind = np.unique(classes, return_inverse=True)
    images_with = np.zeros((kind.max() + 1, present.shape[1]), np.int64)
    np.add.at(images_with, kind, present)
    return (2 * images_with > np.bincount(kind)[:, None]).astype(np.int8)[kind]


def ids_of(root: str | None, store: ActivationStore, images: dict[int, str]) -> list[int]:
    """The archive's number of each image of the recording: its column image_id, or by its path."""
    keys = store.examples["path"].to_list()
    id_of = {name: id for id, path in images.items() for name in (path, PurePosixPath(path).stem)}
    by_path = [id_of.get("/".join(key.split("/")[-2:]), id_of.get(PurePosixPath(key).stem)) for key in keys]
    ids = by_path
    if "image_id" in store.examples.columns:
        ids = store.examples["image_id"].cast(int, strict=False).to_list()
        for key, id, other in zip(keys, ids, by_path, strict=True):
            if other not in (None, id):
                raise ValueError(
                    f"traits.root={root}: {store.name} says image_id={id} of {key}, {IMAGES} says {other}: give the archive of the "
                    "recorded images."
                )
    if unknown := [key for key, id in zip(keys, ids, strict=True) if id not in images]:
        raise ValueError(
            f"traits.root={root}: {len(unknown)} of the {len(keys)} images of {store.name} are not in {IMAGES} "
            f"({shortened(unknown)}): give the archive of the recorded images."
        )
    return [id for id in ids if id is not None]


def file_of(root: str | None, name: str) -> Path:
    """A file of the archive, in CUB_200_2011, its folder attributes/, or beside it; ValueError where it is in none of these."""
    if not root:
        raise ValueError("traits.root is not set: give the unpacked archive, traits.root=/path/to/CUB_200_2011.")
    folder = Path(root).resolve()
    for above in (folder, folder / "CUB_200_2011", folder.parent):
        for file in (above / name, above / "attributes" / name):
            if file.is_file():
                return file
    raise ValueError(
        f"traits.root={root} has no {name}: unpack CUB_200_2011.tgz and give its folder CUB_200_2011 ({ATTRIBUTES} and {LABELS} "
        "in it, in its folder attributes/, or beside it)."
    )


def ids_and_names(file: Path) -> dict[int, str]:
    """The lines `id name` of a file; ValueError naming a line whose first field is no number."""
    rows = read_table(file, column="name")
    if wrong := [id for id in rows if not id.isdecimal()]:
        raise ValueError(f"{file}: {wrong[0]!r} is not a number: unpack the archive again.")
    return {int(id): row["name"] for id, row in rows.items()}


def read_labels(file: Path, images: list[int], attributes: list[int]) -> tuple[Labels, Labels]:
    """(is_present, certainty) of every image and attribute.

    ValueError naming the line or the pair where a line has no four numbers, or the values are none of 0 and 1, or 1 to 4, and
    unless each image has each attribute exactly once.
    """
    import polars as pl

    lines = read_csv(
        file, separator=" ", has_header=False, schema=dict.fromkeys(FIELDS, pl.Int32), truncate_ragged_lines=True,
        quote_char=None, ignore_errors=True,
    ).with_row_index("line", 1)  # fmt: skip
    lines = lines.filter(~pl.all_horizontal(pl.col(FIELDS).is_null()))
    if (cut := lines.filter(pl.any_horizontal(pl.col(FIELDS).is_null()))).height:
        raise ValueError(
            f"{file}, line {cut['line'][0]}: its first four fields must be the numbers {', '.join(FIELDS)}."
        )
    shifted = f"must be {', '.join(FIELDS)}: the columns look shifted; restore the file from the archive"
    for name, low, high in (("is_present", 0, 1), ("certainty_id", 1, 4)):
        if (wrong := lines.filter(~pl.col(name).is_between(low, high))).height:
            raise ValueError(
                f"{file}, line {wrong['line'][0]}: {name}={wrong[name][0]} is not {low} to {high}; the fields {shifted}."
            )
    if lines.height and lines["is_present"].min() == 1:
        raise ValueError(f"{file}: is_present is 1 in all {lines.height} lines; the fields {shifted}.")
    cell = np.zeros(lines.height, np.int64)
    for name, ids in (("image_id", images), ("attribute_id", attributes)):
        order = np.argsort(ids)
        given = lines[name].to_numpy()
        row = order[np.minimum(np.searchsorted(ids, given, sorter=order), len(ids) - 1)]
        if (other := np.flatnonzero(np.array(ids)[row] != given)).size:
            listing = IMAGES if name == "image_id" else ATTRIBUTES
            raise ValueError(
                f"{file}, line {lines['line'][int(other[0])]}: {name}={given[other[0]]} is not in {listing}."
            )
        cell = cell * len(ids) + row
    count = np.bincount(cell, minlength=len(images) * len(attributes))
    if (wrong := np.flatnonzero(count != 1)).size:
        image, attribute = divmod(int(wrong[0]), len(attributes))
        raise ValueError(
            f"{file}: image {images[image]} has attribute {attributes[attribute]} {count[wrong[0]]} times instead of once "
            f"({wrong.size} such pairs, {lines.height} lines for {len(images)} images x {len(attributes)} attributes): "
            "restore the file from the archive."
        )
    order = np.argsort(cell)
    shape = (len(images), len(attributes))
    present, certainty = (lines[name].to_numpy().astype(np.int8)[order].reshape(shape) for name in FIELDS[2:])
    return present, certainty
