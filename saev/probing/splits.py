"""Training and validation images with their labels, and the permuted labels of the null.

Split.token_info(variant, example, token) ──▶ labels, whether the token counts, and the image's number
"""

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

from saev.probing.image_tables import columns_of, labels_from_column, labels_from_table
from saev.probing.labels import Classes, Labels, LabelValues, TokenLabels, check_same_names, classes_of, names_of
from saev.probing.settings import ProbeSettings
from saev.shards import ActivationStore
from saev.shards.selection import Spans, positions, select
from saev.shards.split import split_images

log = logging.getLogger(__name__)
TRUE = "true"  # the variant of the labels that is no null


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

    @cached_property
    def number(self) -> Int64[np.ndarray, " n_examples"]:
        """The number in the split of each image of the recording; -1 for images outside it."""
        number = np.full(self.store.manifest.n_examples, -1)
        number[self.images] = np.arange(len(self.images))
        return number

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


@dataclass(frozen=True)
class LabelledData:
    """Training and validation tokens, and the ids and names of their classes."""

    splits: tuple[Split, Split]
    ids: tuple[int, ...]
    names: tuple[str, ...]


class PermutedLabels:
    """Each image of a split has the labels of another image, position by position.

    Classes keep their frequency and their spatial extent, and are independent of the image. A token beyond the other image's
    tokens has the label at its position modulo their number; positions count from `start`, the first of the probed tokens.
    ValueError for a single image, which would keep its own labels.
    """

    def __init__(
        self,
        labels: Labels,
        images: Int64[np.ndarray, " images"],
        tokens: Int64[np.ndarray, " n"],
        seed: int,
        start: int = 0,
    ):
        if len(images) < 2:
            raise ValueError("nulls=[permuted] exchanges the labels of images, and there is only one: give nulls=[].")
        self.labels, self.exclusive, self.n_classes = labels, labels.exclusive, labels.n_classes
        self.ignored, self.labelled, self.tokens, self.start = labels.ignored, labels.labelled, tokens, start
        self.other = np.arange(len(tokens))
        order = np.random.default_rng(seed).permutation(images)
        self.other[order] = np.roll(order, 1)  # a single cycle: no image keeps its labels

    def of(self, example: Int[np.ndarray, " batch"], token: Int[np.ndarray, " batch"]) -> LabelValues:
        other = self.other[example]
        n_tokens = np.maximum(self.tokens[other] - self.start, 1)
        return self.labels.of(other, self.start + (token - self.start) % n_tokens)

    def counts(self, spans: Spans) -> Int64[np.ndarray, " classes"]:
        span, token = positions(spans)
        values = self.of(spans.example[span], token)
        return np.bincount(values[values >= 0], minlength=self.n_classes) if values.ndim == 1 else values.sum(0)


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
        train, val = split_images(stored, settings.val_fraction)
        train = np.sort(train)
    else:
        train, val = np.flatnonzero(stored), np.flatnonzero(other.tokens_per_image(layer))
    labels, ids, names = labels_of(settings, (store, other), layer, train)
    splits = []
    for name, recording, images, true in zip(("train", "val"), (store, other), (train, val), labels, strict=True):
        images = images[true.labelled[images]]
        if len(images) == 0:
            raise ValueError(f"labels={settings.labels}: no {name} image has any; give labels of more images.")
        variants: dict[str, Labels] = {TRUE: true}
        if "permuted" in settings.nulls:
            start, _ = recording.role_slice(settings.tokens)
            tokens = recording.tokens_per_image(layer)
            variants["permuted"] = PermutedLabels(true, images, tokens, settings.seed, start)
        splits.append(Split(name, recording, layer, images, settings.tokens, variants))
        if count_labelled(splits[-1]) == 0:
            raise ValueError(
                f"no {name} token (tokens={settings.tokens}) is of one of the {len(ids)} classes (labels={settings.labels}): "
                "select others."
            )
    return LabelledData((splits[0], splits[1]), ids, names)


def count_labelled(split: Split) -> int:
    """Labelled tokens of a split."""
    labels = split.variants[TRUE]
    spans = select(split.store.tokens_per_image(split.layer), split.images, split.store.role_slice(split.tokens))
    return int(labels.counts(spans).sum()) if labels.exclusive else spans.n_tokens


def labels_of(
    settings: ProbeSettings, stores: Sequence[ActivationStore], layer: int, train: Int64[np.ndarray, " images"]
) -> tuple[list[Labels], tuple[int, ...], tuple[str, ...]]:
    """Labels of both recordings, and the ids and names of their classes."""
    if settings.labels != "patches":
        read = labels_from_table if Path(settings.labels).suffix else labels_from_column
        first, names = read(stores[0], settings.labels)
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
    classes = classes_of(stores[0], layer, train, settings.tokens, settings.classes, settings.ignore_labels)
    if void_class is not None and void_class not in classes.ids:
        classes = Classes((void_class, *classes.ids), (named.get(void_class, "unlabelled"), *classes.names))
    check_same_names(classes, stores[1])
    return [TokenLabels(store, layer, classes, void_class) for store in stores], classes.ids, classes.names
