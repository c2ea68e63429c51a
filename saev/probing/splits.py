"""Training and validation images with their labels, and the permuted labels of the null.

Split.token_info(variant, example, token) ──▶ labels, whether the token counts, and the image's number
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from saev.metrics.resampling import draws
from saev.probing.image_tables import columns_of, labels_from_column, labels_from_table
from saev.probing.labels import (
    Classes,
    Labels,
    TokenLabels,
    check_same_names,
    classes_of,
    closest,
    ids_of,
    names_of,
)
from saev.probing.permuted import PermutedLabels
from saev.probing.settings import ProbeSettings
from saev.settings import shown
from saev.shards import ActivationStore
from saev.shards.selection import Spans, positions, select
from saev.shards.split import column_of, groups_of, split_groups, split_images

log = logging.getLogger(__name__)
TRUE = "true"  # the variant of the labels that is no null
BLOCK = 4096  # images whose labels are read at a time


class TokenInfo(NamedTuple):
    """Labels and images of a batch's tokens."""

    labels: Int64[Tensor, " tokens"] | Bool[Tensor, "tokens classes"]
    counted: Bool[Tensor, " tokens"]  # of an image of the split, and labelled
    image: Int64[Tensor, " tokens"]  # its number in the split


@dataclass(frozen=True)
class Split:
    """Training or validation: images of a recording and, by name, the variants of their labels: the true ones and nulls."""

    name: str
    store: ActivationStore
    layer: int
    images: Int64[np.ndarray, " images"]
    tokens: str
    variants: Mapping[str, Labels]
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)  # images and tokens not judged, by reason
    group: str | None = None  # column of examples.parquet whose values are resampled instead of images

    @cached_property
    def number(self) -> Int64[np.ndarray, " n_examples"]:
        """The number in the split of each image of the recording; -1 for images outside it."""
        number = np.full(self.store.manifest.n_examples, -1)
        number[self.images] = np.arange(len(self.images))
        return number

    @cached_property
    def cluster(self) -> Int64[np.ndarray, " images"]:
        """For each image of the split the number of its group; without groups, of the image."""
        return groups_of(self.store, self.images, self.group)

    def draws(self, n: int, seed: int) -> Int64[np.ndarray, "clusters n"] | None:
        """`n` resamples of the split's images, or of its groups of images; None for n = 0."""
        return draws(int(self.cluster.max()) + 1, n, seed) if n else None

    def token_info(
        self, variant: str, example: Int[np.ndarray, " tokens"], token: Int[np.ndarray, " tokens"]
    ) -> TokenInfo:
        """Labels of tokens, whether they count, and the numbers of their images in the split."""
        labels, image = self.variants[variant], self.number[example]
        values = labels.of(example, token)
        counted = (image >= 0) & labels.labelled[example]
        if values.ndim == 1:
            counted &= values >= 0
        return TokenInfo(*(torch.from_numpy(np.ascontiguousarray(column)) for column in (values, counted, image)))

    def spans(self) -> Spans:
        """The tokens of the split's images, labelled or not."""
        return select(self.store.tokens_per_image(self.layer), self.images, self.store.role_slice(self.tokens))

    def tally(self, variant: str = TRUE) -> "Tally":
        """Count the labelled tokens and their images."""
        labels, (span, token) = self.variants[variant], positions(self.spans())
        example, counted = self.spans().example[span], []
        tokens, images = np.zeros((2, labels.n_classes), np.int64)
        bounds = np.searchsorted(example, self.images[BLOCK::BLOCK])  # whole images
        for one, position in zip(np.split(example, bounds), np.split(token, bounds), strict=True):
            values, known, image = (column.numpy() for column in self.token_info(variant, one, position))
            values, image = values[known], image[known]
            if values.ndim == 1:
                values = values[:, None] == np.arange(labels.n_classes)
            tokens += values.sum(0)
            starts = np.flatnonzero(np.diff(image, prepend=-1))
            images += np.logical_or.reduceat(values, starts).sum(0) if len(starts) else 0
            counted.append((len(image), len(starts)))
        n_tokens, n_images = np.sum(counted, 0).tolist()
        return Tally(n_tokens, n_images, tokens, images)


class Tally(NamedTuple):
    """Labelled tokens of a split and images with one, in all and of each class."""

    n_tokens: int
    n_images: int
    tokens: Int64[np.ndarray, " classes"]
    images: Int64[np.ndarray, " classes"]


@dataclass(frozen=True)
class LabelledData:
    """Training and validation tokens, and the ids and names of their classes."""

    splits: tuple[Split, Split]
    ids: tuple[int, ...]
    names: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """By split: labelled images and tokens, and what was left out by reason."""
        counts: dict[str, int] = {}
        for split in self.splits:
            tally = split.tally()
            numbers = {"n_images": tally.n_images, "n_tokens": tally.n_tokens, **split.left_out}
            counts |= {f"{key}_{split.name}": n for key, n in numbers.items()}
        return counts


def labelled_data(
    store: ActivationStore, settings: ProbeSettings, layer: int, validation: ActivationStore | None = None
) -> LabelledData:
    """The two splits: of `store` alone, or `store` and `validation`. ValueError where they do not fit or have no labels."""
    other = validation or store
    if other.d_model != store.d_model:
        raise ValueError(
            f"validation={other.location.root} has d_model={other.d_model}, dataset={store.location.root} {store.d_model}: "
            "record both with one backbone."
        )
    if other is not store and other.manifest.fingerprint == store.manifest.fingerprint:
        raise ValueError(
            f"validation={other.location.root} is the dataset itself: give another recording, or leave it out (val_fraction)."
        )
    stored, layer = store.tokens_per_image(layer), store.resolve_layer(layer)
    if other is store:
        if settings.group is None:
            train, val = split_images(stored, settings.val_fraction)
        else:
            train, val = split_groups(stored, settings.val_fraction, column_of(store, settings.group))
        train = np.sort(train)
    else:
        train, val = np.flatnonzero(stored), np.flatnonzero(other.tokens_per_image(layer))
        if settings.group is not None:
            column_of(other, settings.group)  # ValueError where it has no groups
    labels, ids, names = labels_of(settings, (store, other), layer, train)
    splits = [
        labelled_split(name, recording, layer, images, settings, true)
        for name, recording, images, true in zip(("train", "val"), (store, other), (train, val), labels, strict=True)
    ]
    return LabelledData((splits[0], splits[1]), ids, names)


def labelled_split(
    name: str,
    store: ActivationStore,
    layer: int,
    images: Int64[np.ndarray, " images"],
    settings: ProbeSettings,
    labels: Labels,
) -> Split:
    """The labelled ones of these images, with the variants of their labels. ValueError where none has a class."""
    labelled, stored, part = (
        images[labels.labelled[images]],
        store.tokens_per_image(layer),
        store.role_slice(settings.tokens),
    )
    if len(labelled) == 0:
        raise ValueError(f"labels={settings.labels}: no {name} image has any; give labels of more images.")
    if not labels.counts(select(stored, labelled, part)).any():
        raise ValueError(
            f"no {name} token (tokens={settings.tokens}) is of one of the {labels.n_classes} classes (labels={settings.labels}): "
            "select others."
        )
    variants = {TRUE: labels}
    if "permuted" in settings.nulls:
        variants["permuted"] = PermutedLabels(labels, labelled, stored, settings.seed, part[0])
    left_out = {"n_images_unlabelled": len(images) - len(labelled)}
    left_out |= {f"n_tokens_{reason}": n for reason, n in labels.left_out(select(stored, images, part)).items()}
    split = Split(name, store, layer, labelled, settings.tokens, variants, left_out, settings.group)
    reasons = ", ".join(f"{n} {key[2:].replace('_', ' ')}" for key, n in left_out.items() if n)
    log.info("%s: %d images of %s%s", name, len(labelled), store.name, f"; left out: {reasons}" if reasons else "")
    return split


def labels_of(
    settings: ProbeSettings, stores: Sequence[ActivationStore], layer: int, train: Int64[np.ndarray, " images"]
) -> tuple[list[Labels], tuple[int, ...], tuple[str, ...]]:
    """Labels of both recordings, and the ids and names of their classes."""
    if settings.labels != "patches":
        if Path(settings.labels).suffix:
            read = functools.partial(labels_from_table, min_labelled=settings.min_labelled)
        else:
            read = labels_from_column
        first, names = read(stores[0], settings.labels, settings.classes)
        if absent := [name for c, name in enumerate(names) if first.exclusive and not (first.table == c).any()]:
            known = read(stores[0], settings.labels)[1]
            raise ValueError(
                f"classes={shown(settings.classes)}: no image has {settings.labels}={absent[0]}{closest(absent[0], known)}"
            )
        second = first if stores[1] is stores[0] else read(stores[1], settings.labels, names)[0]
        return [first, second], tuple(range(len(names))), names
    for store in stores:
        if store.token_labels is None:
            columns = [f"labels={column}" for column in columns_of(store)]
            raise ValueError(
                f"labels=patches: {store.location.root} has no patch labels: take those of whole images, "
                f"{', '.join([*columns, 'labels=/path/to/table.csv'])}, or record an image set with masks."
            )
    void_class = 0 if settings.compat == "saev" else None
    named = names_of(stores[0])
    if void_class in named:
        log.warning(
            "class 0 of %s is %r: with compat=saev it has all tokens without a label, too", stores[0].name, named[0]
        )
    ignore = ids_of("ignore_labels", settings.ignore_labels, named)
    chosen = None if settings.classes is None else ids_of("classes", settings.classes, named)
    classes = classes_of(stores[0], layer, train, settings.tokens, chosen, ignore)
    if void_class is not None and void_class not in classes.ids:
        classes = Classes((void_class, *classes.ids), (named.get(void_class, "unlabelled"), *classes.names))
    check_same_names(classes, stores[1])
    return [TokenLabels(store, layer, classes, void_class, ignore) for store in stores], classes.ids, classes.names
