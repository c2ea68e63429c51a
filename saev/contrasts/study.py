"""What is compared at one layer: methods, and the pairs of groups as rows of their scores."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int64

from saev.contrasts.conditions import texts_of
from saev.contrasts.groups import Pair
from saev.contrasts.settings import ContrastSettings
from saev.contrasts.sides import Sides
from saev.images.tables import shortened
from saev.saved import SavedDictionary, find_dictionaries
from saev.shards import ActivationStore


class Other(NamedTuple):
    """A dictionary of another run, and the recording and layer that it was trained on."""

    one: SavedDictionary
    store: ActivationStore
    layer: int


@dataclasses.dataclass(frozen=True)
class Study:
    """The dictionaries of a layer, by unique names, and the pairs. Row i of scores is image `images[i]` of the recording."""

    store: ActivationStore
    layer: int
    members: Sequence[SavedDictionary]
    pairs: Sequence[Pair]
    sides: Sequence[Sides]
    images: Int64[np.ndarray, " images"]  # of all pairs together, ascending
    others: Sequence[Other] = ()  # in which partners of latents are looked for

    def with_members(self, added: Sequence[SavedDictionary]) -> "Study":
        """The study with further dictionaries."""
        return dataclasses.replace(self, members=find_dictionaries([*self.members, *added]))


def images_of(pairs: Sequence[Pair]) -> Int64[np.ndarray, " images"]:
    """The images of all groups, ascending."""
    return np.unique(np.concatenate([images for pair in pairs for images in (pair.a, pair.b, pair.third)]))


def sides_of(
    pair: Pair, images: Int64[np.ndarray, " images"], table: pl.DataFrame, settings: ContrastSettings
) -> Sides:
    """A pair's groups as rows of `images`, with clusters (`settings.group`) and strata.

    ValueError where a group of the column has images on both sides.
    """
    both = np.concatenate([pair.a, pair.b])
    cluster = np.arange(len(both))
    if settings.group is not None:
        texts = texts_of(table, settings.group, f"group={settings.group}")
        names = [f"={texts[i]}" if texts[i] else f"image {i}" for i in both.tolist()]
        shared = {*names[: len(pair.a)]} & {*names[len(pair.a) :]}
        if shared:
            what = shortened(sorted(name[1:] for name in shared))
            raise ValueError(
                f"group={settings.group}: {what} of {pair.name} in both groups: exclude these images (where=), or group by another "
                "column."
            )
        cluster = np.unique(names, return_inverse=True)[1].astype(np.int64)
    stratum = np.zeros(len(both), np.int64)
    if settings.strata is not None:
        texts = texts_of(table, settings.strata, f"strata={settings.strata}")
        stratum = np.unique([texts[i] for i in both.tolist()], return_inverse=True)[1].astype(np.int64)
        in_a = np.arange(len(both)) < len(pair.a)
        if not np.intersect1d(stratum[in_a], stratum[~in_a]).size:
            raise ValueError(
                f"strata={settings.strata}: no value has images in both groups of {pair.name}: there is nothing to compare."
            )
    rows = np.searchsorted(images, both)
    return Sides(pair.name, rows[: len(pair.a)], rows[len(pair.a) :], cluster, stratum)
