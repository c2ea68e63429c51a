"""What the measures read beside codes, the same for all dictionaries: classes, concepts, groups, embeddings and pairs of the images."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from saev.dictionary_bench.paired_images import ImagePairs
from saev.images.tables import match, read_table, shortened
from saev.metrics.resampling import MIN_IMAGES, draws
from saev.probing.image_tables import columns_of, labels_from_column, labels_from_table, report_matches
from saev.shards.reader import ActivationStore
from saev.trait_evaluation.sources import ImageTraits, Presence
from saev.trait_evaluation.table import TraitTable

log = logging.getLogger(__name__)


class ImageClasses(NamedTuple):
    """One class per image."""

    number: Int64[np.ndarray, " images"]  # -1: not known
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Rows are the images that are measured; None: not given, so the measures that need it are left out.

    Args:
        drawn: how often each resample has each image; None: no intervals.
        groups: parent -> numbers of its classes.
        embeddings: of the images by another model.
    """

    drawn: Int64[np.ndarray, "images n"] | None = None
    classes: ImageClasses | None = None
    concepts: TraitTable | None = None
    groups: Mapping[str, list[int]] | None = None
    embeddings: Float[np.ndarray, "images width"] | None = None
    pairs: ImagePairs | None = None


def drawn_images(n_images: int, bootstrap: int, seed: int) -> Int64[np.ndarray, "images n"] | None:
    """The resamples of so many images; None without them, and of fewer than MIN_IMAGES: an interval from these says little."""
    return draws(n_images, bootstrap, seed) if bootstrap and n_images >= MIN_IMAGES else None


def classes_of_images(store: ActivationStore, labels: str, images: Int64[np.ndarray, " images"]) -> ImageClasses:
    """The classes of these images: a column of examples.parquet, or a csv of image and class, or of image and a 1 or 0 per class.

    Classes of fewer than MIN_IMAGES images are left out. ValueError for fewer than two classes, or several classes an image.
    """
    if labels in store.examples.columns or not labels.endswith((".csv", ".tsv", ".txt")):
        if labels not in store.examples.columns:
            columns = columns_of(store)
            known = (
                f"has the columns {shortened(columns)}: choose one, or give"
                if columns
                else "has no column of labels: give"
            )
            raise ValueError(f"labels={labels}: {store.name} {known} a csv.")
        found, names = labels_from_column(store, labels)
        number = found.table[images]
    elif (values := class_by_image(store, Path(labels))) is not None:
        names = tuple(sorted({*values.values()} - {""}))
        index = {name: i for i, name in enumerate(names)}
        number = np.array([index.get(values.get(path, ""), -1) for path in image_keys(store, images)], np.int64)
    else:
        found, names = labels_from_table(store, labels)
        table = np.asarray(found.table, bool)[images]
        if (table.sum(1) > 1).any():
            raise ValueError(
                f"labels={labels} has images of several classes: the bench needs one class an image; give them as traits=table."
            )
        number = np.where(table.any(1) & found.labelled[images], table.argmax(1), -1)
    counts = np.bincount(number[number >= 0], minlength=1)
    rare = np.flatnonzero((counts > 0) & (counts < MIN_IMAGES))
    if len(rare):
        log.info("labels=%s: %d classes of fewer than %d images are left out", labels, len(rare), MIN_IMAGES)
        number = np.where(np.isin(number, rare), -1, number)
    if len(np.unique(number[number >= 0])) < 2:
        raise ValueError(
            f"labels={labels}: the {len(images)} images have fewer than two classes of {MIN_IMAGES} images: choose others, or examples=all."
        )
    return ImageClasses(number, names)


def class_by_image(store: ActivationStore, file: Path) -> dict[str, str] | None:
    """Path -> class, from a csv of image and class; None for a table of a column per class."""
    if not file.is_file():
        raise ValueError(f"labels={file} is not there: give a csv of image, class, or a column of examples.parquet.")
    rows = read_table(file)
    if any(len(row) != 1 for row in rows.values()):
        return None
    paths = match(rows, store.examples["path"].to_list(), file)
    report_matches(file, store, rows, paths, 0)
    return {path: next(iter(rows[key].values())) for key, path in paths.items()}


def concepts_of(
    store: ActivationStore,
    source: ImageTraits | None,
    ignore_labels: tuple[int | str, ...],
    classes: ImageClasses | None,
    images: Int64[np.ndarray, " images"],
) -> TraitTable | None:
    """What coalitions are matched to: the traits of `source`, else the classes of the patches in an image, else the classes of images."""
    if source is not None:
        return source.table(store, images)
    if store.token_labels is not None:
        return Presence(ignore_labels=ignore_labels).table(store, images)
    if classes is None:
        return None
    values = (classes.number[:, None] == np.arange(len(classes.names))).astype(np.int8)
    values[classes.number < 0] = -1
    return TraitTable(classes.names, values)


def image_keys(store: ActivationStore, images: Int64[np.ndarray, " images"]) -> Sequence[str]:
    """What says which images these are: their paths, or their numbers in the recording."""
    if "path" not in store.examples.columns:
        return [str(number) for number in images.tolist()]
    return store.examples["path"].fill_null("")[images.tolist()].to_list()
