"""The methods that are compared, each as the scores of both sides' units by its prototypes."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from saev.saved import SavedDictionary, find_dictionaries
from saev.scoring.blocks import Scores, size
from saev.scoring.images import scores_of_images
from saev.scoring.scorers import Activations, BothSigns, TokenScorer, about, kind_of
from saev.trait_evaluation.settings import TraitsSettings
from saev.trait_evaluation.units import Side

RAW, CHANNELS = "supervised", "channels"


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared at one layer: dictionaries by unique names, and both sides' units with the same traits."""

    layer: int
    members: Sequence[SavedDictionary]
    names: tuple[str, ...]
    train: Side
    test: Side

    def with_members(self, added: Sequence[SavedDictionary]) -> "Study":
        """The study with further dictionaries."""
        return dataclasses.replace(self, members=find_dictionaries([*self.members, *added]))


class Method(NamedTuple):
    """The scores of the training and the test units by one method's prototypes, and what its rows say of it."""

    name: str
    kind: str  # sae, random_vectors, kmeans, ..., channels, or the class of a user's scorer
    train: Scores
    test: Scores
    about: Mapping[str, Any]

    @property
    def n_prototypes(self) -> int:
        """The prototypes that a trait's best is chosen from."""
        return size(self.train)[1]


def image_methods(
    study: Study,
    scorers: Mapping[str, TokenScorer],
    settings: TraitsSettings,
    codes: str | os.PathLike | None,
    device: str,
) -> tuple[list[Method], tuple[np.ndarray, np.ndarray]]:
    """The methods where units are images, and the images' raw activations, averaged over their tokens.

    Sparse codes are read from `codes`, and written there first where they are missing; all others are pooled in one pass.
    """
    saved, train, test, layer = study.members, study.train, study.test, study.layer
    extra = dict(scorers)
    if settings.channels:
        extra[CHANNELS] = BothSigns(Activations(train.store.d_model))
    if settings.supervised:
        extra[RAW] = Activations(train.store.d_model)
    scores, _ = scores_of_images(
        saved, extra, {"train": train.selection(layer, settings.tokens), "test": test.selection(layer, settings.tokens)},
        settings.pool, pools={RAW: "mean"}, codes=codes, batch_size=settings.batch_size, device=device,
    )  # fmt: skip
    none = np.zeros((0, 0), np.float32)
    raw = scores.pop(RAW, {"train": none, "test": none})
    methods = methods_of(saved, scorers, {name: (of["train"], of["test"]) for name, of in scores.items()})
    return methods, (np.asarray(raw["train"]), np.asarray(raw["test"]))


def methods_of(
    saved: Sequence[SavedDictionary], scorers: Mapping[str, Any], scores: Mapping[str, tuple[Scores, Scores]]
) -> list[Method]:
    """The methods in the order: dictionaries as given, the user's scorers, channels."""
    of = {one.name: (kind_of(one), about(one)) for one in saved}
    of |= {name: (type(scorer).__name__, {}) for name, scorer in scorers.items()}
    of |= {CHANNELS: (CHANNELS, {})} if CHANNELS in scores else {}
    return [Method(name, kind, *scores[name], described) for name, (kind, described) in of.items()]
