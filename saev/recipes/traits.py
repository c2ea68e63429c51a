"""`saev.traits`: the traits that dictionaries hold, beside baselines that are fitted to the same activations on demand."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules import ActivationDataModule
from saev.baselines import PCA, BaselineSettings, KMeans, RandomVectors, SemiNMF
from saev.recipes.fit import fit
from saev.runs.directory import new_directory, results_of
from saev.saved import Dictionaries, Recording, SavedDictionary, find_dictionaries
from saev.shards import ActivationStore
from saev.training.settings import FitSettings
from saev.trait_evaluation.pipeline import TraitsResult, dictionaries_by_layer, evaluate_traits, opened, sides_of
from saev.trait_evaluation.scores import TokenScorer
from saev.trait_evaluation.settings import TraitsSettings
from saev.trait_evaluation.sources import ImageTraits, Masks

SIZE = 1024  # prototypes of a baseline where there is no dictionary to equal
ACTIVE = 32  # latents of an untrained autoencoder that are active on a token


def traits(
    dictionaries: Dictionaries | None,
    train: Recording,
    source: ImageTraits | Masks,
    settings: TraitsSettings = TraitsSettings(),  # noqa: B008 it is frozen
    *,
    test: Recording | None = None,
    layers: Sequence[int] = (),
    scorers: Mapping[str, TokenScorer] | None = None,
    directory: str | os.PathLike | None = None,
    codes: str | os.PathLike | None = None,
    device: str = "auto",
) -> TraitsResult:
    """For each trait choose the best prototype of each method on training units, and measure it on test units.

    `settings.baselines` are fitted first, in `directory`/baselines. All other arguments, the errors and the result are those
    of `evaluate_traits` (saev/trait_evaluation/pipeline.py); directory=None: a new one below outputs/traits.
    """
    directory = Path(directory or new_directory("traits"))
    store, saved = opened(train), find_dictionaries(dictionaries) if dictionaries else []
    fitted: list[SavedDictionary] = []
    if settings.baselines:
        other = None if test is None else opened(test)
        chosen = {}
        for layer in dictionaries_by_layer(saved, store, layers):
            _, side, _ = sides_of(source, store, other, settings, layer)  # before anything is fitted
            size = baseline_size(saved, settings, side.selection(layer, settings.tokens).spans.n_tokens)
            chosen[layer] = {name: baseline(name, size) for name in settings.baselines}
        for layer, baselines in chosen.items():
            fitted += fit_baselines(store, layer, baselines, settings, test is None, directory, device)
    return evaluate_traits(
        [*saved, *fitted], store, source, settings, test=test, layers=layers, scorers=scorers, directory=directory,
        codes=codes, device=device,
    )  # fmt: skip


def baseline_size(saved: Sequence[SavedDictionary], settings: TraitsSettings, n_tokens: int) -> int:
    """The prototypes of each baseline; ValueError where there are fewer training tokens."""
    if settings.baseline_size is None:
        return min(max((int(one.config["n_latents"]) for one in saved), default=SIZE), n_tokens)
    if settings.baseline_size > n_tokens:
        raise ValueError(
            f"baseline_size={settings.baseline_size}: there are only {n_tokens} training tokens: lower it."
        )
    return settings.baseline_size


def baseline(name: str, size: int) -> BaselineSettings:
    """The settings of a baseline with `size` prototypes.

    Random vectors are tokens, without centring, scored by the dot product, as in the published tables; unit vectors would give
    the same AP, which does not change with a prototype's scale. k-means scores by 1 / distance, PCA by all of its components.
    """
    if name == "random_vectors":
        return RandomVectors(size, k=None, refit=False, centred=False, unit_norm=False)
    if name == "untrained":
        return RandomVectors(size, k=min(ACTIVE, size), variant="untrained")
    if name == "kmeans":
        return KMeans(size, code="inverse")
    return PCA(k=(None,)) if name == "pca" else SemiNMF(size)


def fit_baselines(
    store: ActivationStore,
    layer: int,
    baselines: Mapping[str, BaselineSettings],
    settings: TraitsSettings,
    one_recording: bool,
    directory: Path,
    device: str,
) -> list[SavedDictionary]:
    """The baselines of a layer, fitted to the training side of one recording, or to all of the training recording but a tenth."""
    root = directory / "baselines" / f"layer{layer}"
    if results_of(root) is None:
        held_out: dict[str, Any] = (
            {"val_fraction": settings.test_fraction, "group": settings.group, "split": settings.split}
            if one_recording
            else {}
        )
        n = min(FitSettings().batch_size, store.tokens_per_image(layer).sum() // 4)
        data = ActivationDataModule(
            str(store.location.root), layer, max(1, int(n)), tokens=settings.tokens, seed=settings.seed, **held_out
        )
        shared = FitSettings(tokens=settings.tokens, normalise="none", data_seed=settings.seed, device=device)
        fit(data, layer, baselines, settings=shared, directory=root)
    return find_dictionaries(root)
