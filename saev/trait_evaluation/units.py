"""The training and test units, images or tokens, and their traits."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int8, Int64

from saev.images.tables import shortened
from saev.probing.sparse.codes import sample_evenly
from saev.shards import ActivationStore
from saev.shards.selected_tokens import Selection
from saev.shards.selection import per_image, select
from saev.shards.split import column_of, split_by_column, split_groups, split_images
from saev.trait_evaluation.settings import TraitsSettings
from saev.trait_evaluation.sources import ImageTraits, Masks
from saev.trait_evaluation.table import TraitTable, shared
from saev.vits.activation_site import differences

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Side:
    """The units of one side: images (`token` None) or tokens, and their traits."""

    store: ActivationStore
    example: Int64[np.ndarray, " units"]  # image of each unit, ascending
    token: Int64[np.ndarray, " units"] | None  # among the image's stored tokens
    labels: Int8[np.ndarray, "units traits"]
    cluster: Int64[np.ndarray, " units"]  # image, or group of images, from 0: what is resampled together

    @property
    def images(self) -> Int64[np.ndarray, " images"]:
        """The images, ascending."""
        return np.unique(self.example)

    def digest(self) -> str:
        """sha256 (hex) of the recording, the units and their traits."""
        token = np.zeros(0, np.int64) if self.token is None else self.token
        parts = (self.store.manifest.fingerprint.encode(), *map(np.ndarray.tobytes, (self.example, token, self.labels)))
        return hashlib.sha256(b"".join(parts)).hexdigest()

    @property
    def n_clusters(self) -> int:
        """Images, or groups of images."""
        return int(self.cluster.max()) + 1

    def selection(self, layer: int, tokens: str) -> Selection:
        """The recorded tokens of the images."""
        return Selection(self.store, layer, self.images, tokens)


def split_of(
    train: ActivationStore, test: ActivationStore | None, settings: TraitsSettings, layer: int
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " test"]]:
    """The images of both sides: of two recordings all; of one, by `settings.split` (train, or not), else
    by `test_fraction`, without dividing a `group`.

    ValueError where a side has no image, where both recordings are the same, or where a group is on both sides.
    """
    sides = _split(train, test, settings, layer)
    if settings.group is not None:
        groups = [
            {column_of(store, settings.group)[i] for i in images.tolist()}
            for store, images in zip((train, test or train), sides, strict=True)
        ]
        both = sorted(value[1:] for value in groups[0] & groups[1] if value.startswith("="))
        if both:
            raise ValueError(
                f"group={settings.group}: {shortened(both)} on both sides: give other test images, or leave test= and split= out."
            )
    return sides


def _split(
    train: ActivationStore, test: ActivationStore | None, settings: TraitsSettings, layer: int
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " test"]]:
    stored = selected_tokens(train, layer, settings.tokens)
    if test is not None:
        if test.d_model != train.d_model:
            raise ValueError(
                f"test={test.location.root} has d_model={test.d_model}, train={train.location.root} {train.d_model}: record both "
                "with one backbone."
            )
        if test.manifest.fingerprint == train.manifest.fingerprint:
            raise ValueError(
                f"test={test.location.root} is the training recording itself: give another, or leave it out (test_fraction)."
            )
        if settings.split is not None:
            raise ValueError(
                f"split={settings.split}: test={test.location.root} says which images are for the test: drop one."
            )
        first, second = (store.manifest.meaning.get("vit") or {} for store in (train, test))
        if first and second and (differ := differences(first, second)):
            log.warning("train and test were recorded with different backbones (%s)", ", ".join(differ))
        return np.flatnonzero(stored), np.flatnonzero(selected_tokens(test, layer, settings.tokens))
    if settings.split is not None:
        return split_by_column(train, stored, settings.split, "split")
    if settings.group is None:
        first, second = split_images(stored, settings.test_fraction)
    else:
        first, second = split_groups(stored, settings.test_fraction, column_of(train, settings.group))
    return np.sort(first), np.sort(second)


def selected_tokens(store: ActivationStore, layer: int, tokens: str) -> Int64[np.ndarray, " n_examples"]:
    """Tokens of these roles of each image."""
    stored = store.tokens_per_image(layer)
    return per_image(select(stored, np.flatnonzero(stored), store.role_slice(tokens)), len(stored))


def image_sides(
    source: ImageTraits,
    train: ActivationStore,
    test: ActivationStore | None,
    images: Sequence[np.ndarray],
    group: str | None,
) -> tuple[tuple[str, ...], Side, Side]:
    """(names of the traits, training side, test side) where units are images."""
    if test is None:
        together = source.table(train, np.concatenate(images))
        names, n = together.names, len(images[0])
        tables = [together.values[:n], together.values[n:]]
    else:
        first, second = shared(source.table(train, images[0]), source.table(test, images[1]))
        names, tables = first.names, [first.values, second.values]
    sides = [
        Side(store, example, None, labels, clusters(store, example, group))
        for store, example, labels in zip((train, test or train), images, tables, strict=True)
    ]
    return names, sides[0], sides[1]


def token_sides(
    source: Masks,
    train: ActivationStore,
    test: ActivationStore | None,
    images: Sequence[np.ndarray],
    settings: TraitsSettings,
    layer: int,
) -> tuple[tuple[str, ...], Side, Side]:
    """(names of the traits, training side, test side) where units are tokens: `sample_tokens` of a side, evenly from its images."""
    if settings.tokens not in ("patches", "all"):
        raise ValueError(f"tokens={settings.tokens}: traits=masks are of patches: choose tokens=patches.")
    stores, units = (train, test or train), []
    for store, chosen in zip(stores, images, strict=True):
        example, token, table = source.table(store, chosen, layer)
        kept = np.sort(sample_evenly(example, settings.sample_tokens, settings.seed))
        units.append((example[kept], token[kept], TraitTable(table.names, table.values[kept])))
    tables = shared(units[0][2], units[1][2])
    sides = [
        Side(store, example, token, table.values, clusters(store, example, settings.group))
        for store, (example, token, _), table in zip(stores, units, tables, strict=True)
    ]
    return tables[0].names, sides[0], sides[1]


def clusters(
    store: ActivationStore, example: Int64[np.ndarray, " units"], group: str | None
) -> Int64[np.ndarray, " units"]:
    """The number of each unit's image, or of its image's group."""
    key = example if group is None else np.asarray(column_of(store, group))[example]
    return np.unique(key, return_inverse=True)[1].astype(np.int64)


def permuted(side: Side, seed: int) -> Side:
    """Each image's units have the traits of another image's, in order (modulo their number): the null of permuted labels."""
    images, start, count = np.unique(side.example, return_index=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(images))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # a single cycle: no image keeps its traits
    number = np.repeat(np.arange(len(images)), count)
    within = np.arange(len(side.example)) - start[number]
    return dataclasses.replace(side, labels=side.labels[start[other[number]] + within % count[other[number]]])


def rankable(names: tuple[str, ...], train: Side, test: Side) -> tuple[tuple[str, ...], Side, Side]:
    """The sides without traits that no unit has, or that every unit has, on either side: nothing can be ranked by them.

    ValueError where none is left.
    """
    varies = np.ones(len(names), bool)
    for side in (train, test):
        varies &= (side.labels == 1).any(0) & (side.labels == 0).any(0)
    if not varies.any():
        raise ValueError(
            f"traits: none of {len(names)} has both a positive and a negative on each side ({shortened(names)}): give more images "
            "or other traits."
        )
    if not varies.all():
        left_out = [name for name, kept in zip(names, varies, strict=True) if not kept]
        log.warning("traits without a positive or without a negative on one side, left out: %s", shortened(left_out))
    kept = [dataclasses.replace(side, labels=side.labels[:, varies]) for side in (train, test)]
    return tuple(name for name, keep in zip(names, varies, strict=True) if keep), kept[0], kept[1]
