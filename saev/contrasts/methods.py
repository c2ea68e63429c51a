"""The methods whose latents are compared: their scores of the images, and the codes that maps are read from."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from saev.codes.store import CodeStore
from saev.contrasts.settings import ContrastSettings
from saev.contrasts.study import Study
from saev.saved import SavedDictionary
from saev.scoring.blocks import Scores, size
from saev.scoring.images import scores_of_images
from saev.scoring.scorers import Activations, BothSigns, TokenScorer, about, kind_of
from saev.shards.selected_tokens import Selection

CHANNELS, RAW = "channels", "raw activations"
BASELINES = ("random_vectors", "kmeans", "pca", "semi_nmf", "untrained", CHANNELS)  # kinds


class Method(NamedTuple):
    """The scores of a study's images by one method's latents, and what its rows say of it."""

    name: str
    kind: str  # sae, random_vectors, kmeans, ..., channels
    scores: Scores
    about: Mapping[str, Any]
    codes: CodeStore | None  # of sparse dictionaries
    names: Mapping[int, str]  # of annotated latents

    @property
    def n_latents(self) -> int:
        """Its latents, or prototypes, or signed channels."""
        return size(self.scores)[1]


def methods_of(
    study: Study, settings: ContrastSettings, codes: str | os.PathLike | None, device: str
) -> tuple[list[Method], np.ndarray]:
    """The methods in the order in which they were named, then channels; and the images' raw activations, averaged over tokens.

    Sparse codes are read from `codes`, and written there first where they are missing; all others are pooled in one pass.
    """
    selection = Selection(study.store, study.layer, study.images, settings.tokens)
    extra: dict[str, TokenScorer] = {}
    if settings.channels:
        extra[CHANNELS] = BothSigns(Activations(study.store.d_model))
    if settings.classifier:
        extra[RAW] = Activations(study.store.d_model)
    scores, stores = scores_of_images(
        study.members, extra, {"all": selection}, settings.pool, pools={RAW: "mean"}, codes=codes,
        batch_size=settings.batch_size, device=device,
    )  # fmt: skip
    raw = np.asarray(scores.pop(RAW)["all"]) if RAW in scores else np.zeros((len(study.images), 0), np.float32)
    of: dict[str, SavedDictionary] = {one.name: one for one in study.members}
    methods = [
        Method(name, kind_of(of[name]), by["all"], about(of[name]), stores.get(name, {}).get("all"), of[name].names())
        if name in of
        else Method(name, CHANNELS, by["all"], {}, None, {})
        for name, by in scores.items()
    ]
    return methods, raw
