"""What is compared at one layer: methods, and the pairs of groups as rows of their scores."""

import dataclasses
import logging
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

log = logging.getLogger(__name__)


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
    sides = Sides(pair.name, rows[: len(pair.a)], rows[len(pair.a) :], cluster, stratum)
    if not sides.comparable:
        raise ValueError(
            f"group={settings.group}: no {settings.group} of one group of {pair.name} has about as many images (within a factor of two, "
            "in each of the strata) as one of the other, so that none can be exchanged: take as many images of each, where=."
        )
    return sides


def warn_of_few(sides: Sides, settings: ContrastSettings) -> None:
    """Say which clusters are in no test, and where so few permutations exist that no latent can separate the groups."""
    what = settings.group or "image"
    if n := int(sides.alone.sum()):
        log.warning(
            "%s: %d of %d (%s) have numbers of images%s that the other group has not: z and p leave them out", sides.name, n,
            len(sides.alone), what, f" in each {settings.strata}" if settings.strata else "",
        )  # fmt: skip
    if sides.smallest_p > settings.alpha:
        n_a, n_b = int(sides.cluster_is_a.sum()), int((~sides.cluster_is_a).sum())
        log.warning(
            "%s: %d and %d (%s) have so few arrangements that no p is below %.2g: no latent can separate them at alpha=%g",
            sides.name, n_a, n_b, what, sides.smallest_p, settings.alpha,
        )  # fmt: skip
