"""`saev.traits`: the traits that dictionaries hold, beside baselines that are fitted to the same activations on demand."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules import ActivationDataModule
from saev.baselines import PCA, BaselineSettings, KMeans, RandomVectors, SemiNMF
from saev.files import fingerprint
from saev.recipes.fit import fit
from saev.runs.directory import new_directory, results_of
from saev.saved import Dictionaries, Recording, SavedDictionary, find_dictionaries
from saev.scoring.scorers import TokenScorer
from saev.training.settings import FitSettings
from saev.trait_evaluation.methods import Study
from saev.trait_evaluation.pipeline import TraitsResult, evaluate_traits, prepare
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

    `settings.baselines` are fitted first, in `directory`/baselines.

    Args:
        dictionaries: directories of dictionaries, runs or sweeps, or name -> dictionary in memory.
        train, source: a recording, and where its images' or tokens' traits come from (saev/trait_evaluation/sources).
        test: another recording; None: images of `train`, by `settings.split` or `settings.test_fraction`.
        layers: block indices; none: those that the dictionaries were trained on. Dictionaries of other layers are left out.
        scorers: further methods by name: what maps activations [batch, d_model] on the device to scores [batch, n_prototypes].
        directory: where tables are written; None: a new one below outputs/traits.
        codes: the folder of codes, which are read where they are there; None: $SAEV_OUTPUTS/codes.

    Raises ValueError for what does not fit, before activations are read.
    """
    directory = Path(directory or new_directory("traits"))
    studies = prepare(dictionaries, train, source, settings, test, layers)
    if settings.baselines:
        sizes = [baseline_size(study, settings) for study in studies]  # before anything is fitted
        studies = [
            study.with_members(fit_baselines(study, size, settings, directory, device))
            for study, size in zip(studies, sizes, strict=True)
        ]
    return evaluate_traits(
        studies, settings, scorers=scorers, directory=directory, codes=codes, device=device,
        label_mode=getattr(source, "labels", None),
    )  # fmt: skip


def fitted_tokens(study: Study, tokens: str) -> int:
    """The training tokens of baselines; of two recordings a tenth of the training images is held out."""
    n = study.train.selection(study.layer, tokens).spans.n_tokens
    return n if study.train.store is study.test.store else int(0.85 * n)


def baseline_size(study: Study, settings: TraitsSettings) -> int:
    """The prototypes of each baseline; ValueError where there are fewer training tokens."""
    n_tokens = fitted_tokens(study, settings.tokens)
    if settings.baseline_size is None:
        return min(max((int(one.config["n_latents"]) for one in study.members), default=SIZE), n_tokens)
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
    study: Study, size: int, settings: TraitsSettings, directory: Path, device: str
) -> list[SavedDictionary]:
    """The baselines of a layer, fitted to the training side of one recording, or to nine tenths of the training recording."""
    store, layer = study.train.store, study.layer
    baselines = {name: baseline(name, size) for name in settings.baselines}
    held_out: dict[str, Any] = {}
    if study.test.store is store:
        held_out = {"val_fraction": settings.test_fraction, "group": settings.group, "split": settings.split}
    rows = {name: dataclasses.asdict(one) for name, one in baselines.items()}
    asked = {
        "baselines": rows,
        **held_out,
        "tokens": settings.tokens,
        "seed": settings.seed,
        "data": store.manifest.fingerprint,
    }
    root = directory / "baselines" / f"layer{layer}-{fingerprint(asked)[:8]}"
    if results_of(root) is None:
        batch = FitSettings().batch_size
        data = ActivationDataModule(
            str(store.location.root), layer, batch, tokens=settings.tokens, seed=settings.seed, **held_out
        )
        shared = FitSettings(tokens=settings.tokens, normalise="none", data_seed=settings.seed, device=device)
        fit(data, layer, baselines, settings=shared, directory=root)
    return find_dictionaries(root)
