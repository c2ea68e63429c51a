"""The methods that are compared, each as the scores of both sides' units by its prototypes."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from saev.dictionary import Scorer
from saev.progress import bar
from saev.saved import SavedDictionary, find_dictionaries
from saev.trait_evaluation.grid import Scores, size
from saev.trait_evaluation.scores import (
    Activations,
    BothSigns,
    TokenScorer,
    is_dense,
    on_device,
    pooled_codes,
    pooled_scores,
    stored_codes,
)  # fmt: skip
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
    sides = {"train": train, "test": test}
    selections = {name: side.selection(layer, settings.tokens) for name, side in sides.items()}
    sparse = [
        one
        for one in saved
        if one.path is not None and kind_of(one) != "pca" and not is_dense(one, selections["train"], device)
    ]
    dense: dict[str, TokenScorer] = {one.name: scorer_of(one, device) for one in saved if one not in sparse}
    dense |= {name: on_device(scorer, device) for name, scorer in scorers.items()}
    if settings.channels:
        dense[CHANNELS] = BothSigns(Activations(train.store.d_model))
    pools = dict.fromkeys(dense, settings.pool)
    if settings.supervised:
        dense[RAW], pools[RAW] = Activations(train.store.d_model), "mean"
    pooled: dict[str, dict[str, np.ndarray]] = {}
    for name, selection in selections.items():
        with bar(f"Scores of {name} images", selection.spans.n_tokens, visible=bool(dense)) as advance:
            pooled[name] = pooled_scores(dense, selection, pools, settings.batch_size, device, advance) if dense else {}
    none = np.zeros((0, 0), np.float32)
    raw = pooled["train"].pop(RAW, none), pooled["test"].pop(RAW, none)
    scores: dict[str, tuple[Scores, Scores]] = {
        name: (pooled["train"][name], pooled["test"][name]) for name in pooled["train"]
    }
    for one in sparse:
        first, second = (
            pooled_codes(
                stored_codes(one, selections[name], codes, settings.batch_size, device), side.images, settings.pool
            )
            for name, side in sides.items()
        )
        scores[one.name] = first, second
    return methods_of(saved, scorers, scores), raw


def methods_of(
    saved: Sequence[SavedDictionary], scorers: Mapping[str, Any], scores: Mapping[str, tuple[Scores, Scores]]
) -> list[Method]:
    """The methods in the order: dictionaries as given, the user's scorers, channels."""
    of = {one.name: (kind_of(one), about(one)) for one in saved}
    of |= {name: (type(scorer).__name__, {}) for name, scorer in scorers.items()}
    of |= {CHANNELS: (CHANNELS, {})} if CHANNELS in scores else {}
    return [Method(name, kind, *scores[name], described) for name, (kind, described) in of.items()]


def scorer_of(one: SavedDictionary, device: str) -> TokenScorer:
    """A dictionary's codes as scores; of principal components with both signs, as their signs are arbitrary."""
    scorer = Scorer(one.load(device))
    return BothSigns(scorer) if kind_of(one) == "pca" else scorer


def kind_of(one: SavedDictionary) -> str:
    """sae, or the kind of a baseline; random vectors of the variant `untrained` are apart."""
    settings = one.config.get("hyperparameters") or {}
    if settings.get("variant") == "untrained":
        return "untrained"
    return str(
        settings.get("baseline")
        or ("sae" if "sae" in settings else one.config.get("kind", type(one.dictionary).__name__))
    )


def about(one: SavedDictionary) -> dict[str, Any]:
    """The columns of rows that say what a dictionary is and how it was trained."""
    settings, metrics = one.config.get("hyperparameters") or {}, one.config.get("metrics") or {}
    named = {key: settings.get(key) for key in ("sae", "objective", "sparsity", "k", "l0_target", "lr")}
    return {
        "dictionary": str(one.path or one.name),
        "sha256": (one.config.get("sha256") or {}).get("weights"),
        "train_dataset": one.provenance.get("dataset"),
        "d_sae": one.config["n_latents"],
        **named,
        "l0": metrics.get("l0"),
        "nmse": metrics.get("nmse"),
    }
