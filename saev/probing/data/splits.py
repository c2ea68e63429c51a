"""What `saev probe` learns from and is judged on: images, their labels, and the labels of the nulls."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int64
from omegaconf import DictConfig

from saev.probing.data.classes import Classes, check_same_names, classes_of, names_of
from saev.probing.data.image_tables import columns_of, labels_from_column, labels_from_table
from saev.probing.data.labels import Found, Labels, TokenLabels
from saev.probing.data.sources import Split
from saev.shards import ActivationStore
from saev.shards.selection import Runs, positions, select
from saev.shards.split import split_images

log = logging.getLogger(__name__)
COMPAT = ("strict", "saev")
NULLS = ("permuted",)
TRUE = "true"  # the variant that is no null


@dataclass(frozen=True)
class Labelled:
    """Training and validation with their classes."""

    splits: tuple[Split, Split]
    ids: tuple[int, ...]
    names: tuple[str, ...]
    patches: bool  # whether labels are those of patches, one class each


class Permuted:
    """The labels of other images: each image of a split has those of another one, place by place.

    So classes are as frequent, and as patchy, as they are, and say nothing of the image. A token beyond the other image's
    tokens has the label of the one at its number modulo theirs, where both count from `start`, each image's first patch
    or whatever else is looked at. ValueError for a single image: it would keep its own.
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
        self.left_out, self.labelled, self.tokens, self.start = labels.left_out, labels.labelled, tokens, start
        self.other = np.arange(len(tokens))
        order = np.random.default_rng(seed).permutation(images)
        self.other[order] = np.roll(order, 1)  # a single cycle: nobody keeps its own

    def of(self, example: Int[np.ndarray, " batch"], token: Int[np.ndarray, " batch"]) -> Found:
        """The labels of tokens."""
        other = self.other[example]
        theirs = np.maximum(self.tokens[other] - self.start, 1)
        return self.labels.of(other, self.start + (token - self.start) % theirs)

    def counts(self, runs: Runs) -> Int64[np.ndarray, " classes"]:
        """Tokens of each class among those selected."""
        run, token = positions(runs)
        found = self.of(runs.example[run], token)
        return np.bincount(found[found >= 0], minlength=self.n_classes) if found.ndim == 1 else found.sum(0)


def labelled(cfg: DictConfig, layer: int) -> Labelled:
    """The splits that the configuration asks for. ValueError before anything is read where they cannot be."""
    store = ActivationStore(cfg.dataset)
    other = ActivationStore(cfg.validation) if cfg.validation else store
    if other.d_model != store.d_model:
        raise ValueError(
            f"validation={cfg.validation} has d_model={other.d_model}, dataset={cfg.dataset} {store.d_model}: record both with "
            "one backbone."
        )
    if other is not store and other.manifest.fingerprint == store.manifest.fingerprint:
        raise ValueError(
            f"validation={cfg.validation} is the dataset itself: give another recording, or leave it out (val_fraction)."
        )
    stored, layer = store.tokens_per_image(layer), store.resolve_layer(layer)
    if other is store:
        train, val = split_images(stored, cfg.val_fraction)
        train = np.sort(train)
    else:
        train, val = np.flatnonzero(stored), np.flatnonzero(other.tokens_per_image(layer))
    labels, ids, names = labels_of(cfg, (store, other), layer, train)
    splits = []
    for name, recording, images, own in zip(("train", "val"), (store, other), (train, val), labels, strict=True):
        images = images[own.labelled[images]]
        if len(images) == 0:
            raise ValueError(f"labels={cfg.labels}: no {name} image has any; give labels of more images.")
        variants: dict[str, Labels] = {TRUE: own}
        if "permuted" in cfg.nulls:
            start, _ = recording.role_slice(cfg.tokens)
            variants["permuted"] = Permuted(own, images, recording.tokens_per_image(layer), cfg.seed, start)
        splits.append(Split(name, recording, layer, images, cfg.tokens, variants))
        if count(splits[-1]) == 0:
            raise ValueError(
                f"no {name} token (tokens={cfg.tokens}) is of one of the {len(ids)} classes (labels={cfg.labels}): select others."
            )
    return Labelled((splits[0], splits[1]), ids, names, cfg.labels == "patches")


def count(split: Split) -> int:
    """Tokens of a split whose labels are known."""
    labels = split.variants[TRUE]
    runs = select(split.store.tokens_per_image(split.layer), split.images, split.store.role_slice(split.tokens))
    return int(labels.counts(runs).sum()) if labels.exclusive else runs.n_tokens


def labels_of(
    cfg: DictConfig, stores: Sequence[ActivationStore], layer: int, train: Int64[np.ndarray, " images"]
) -> tuple[list[Labels], tuple[int, ...], tuple[str, ...]]:
    """Labels of both recordings, and the ids and names of their classes."""
    if cfg.labels == "patches":
        for store in stores:
            if store.token_labels is None:
                columns = [f"labels={column}" for column in columns_of(store)]
                raise ValueError(
                    f"labels=patches: {store.location.root} has no patch labels: take those of whole images, "
                    f"{', '.join([*columns, 'labels=/path/to/table.csv'])}, or record an image set with masks."
                )
        void_is = 0 if cfg.compat == "saev" else None
        if cfg.compat == "saev" and 0 in cfg.ignore_labels:
            raise ValueError(
                "compat=saev counts what has no label as class 0, ignore_labels leaves it out: drop one of them."
            )
        named = names_of(stores[0])
        if void_is in named:
            log.warning(
                "class 0 of %s is %r: with compat=saev it has all tokens without a label, too", stores[0].name, named[0]
            )
        classes = classes_of(stores[0], layer, train, cfg.tokens, cfg.classes, tuple(cfg.ignore_labels))
        if void_is is not None and void_is not in classes.ids:
            classes = Classes((void_is, *classes.ids), (named.get(void_is, "unlabelled"), *classes.names))
        check_same_names(classes, stores[1])
        return [TokenLabels(store, layer, classes, void_is) for store in stores], classes.ids, classes.names
    for key in ("classes", "ignore_labels"):
        if cfg[key]:
            raise ValueError(f"{key}={list(cfg[key])} is for labels=patches; leave it out with labels={cfg.labels}.")
    if cfg.compat == "saev":
        raise ValueError(f"compat=saev is for labels=patches; leave it out with labels={cfg.labels}.")
    reader = labels_from_table if Path(cfg.labels).suffix else labels_from_column
    first, names = reader(stores[0], cfg.labels)
    second = first if stores[1] is stores[0] else reader(stores[1], cfg.labels, names)[0]
    return [first, second], tuple(range(len(names))), names


def check(cfg: DictConfig) -> None:
    """ValueError for values out of bounds, before anything is loaded."""
    if cfg.compat not in COMPAT:
        raise ValueError(f"compat={cfg.compat}: choose {' or '.join(COMPAT)}.")
    unknown = [null for null in cfg.nulls if null not in NULLS]
    if unknown:
        raise ValueError(f"nulls={list(cfg.nulls)}: choose of {list(NULLS)}.")
    if not cfg.dataset:
        raise ValueError("dataset is not given: name activations whose tokens have labels, dataset=/path/to/recording.")
    if cfg.seed < 0:
        raise ValueError(f"seed={cfg.seed}: give 0 or more.")
    if not 0 < cfg.val_fraction < 1:
        raise ValueError(f"val_fraction={cfg.val_fraction}: give a share between 0 and 1.")
