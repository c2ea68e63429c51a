"""Baselines that comparisons of images fit on demand, with as many prototypes as the dictionaries they are compared with."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from datamodules import ActivationDataModule
from saev.baselines import PCA, BaselineSettings, KMeans, RandomVectors, SemiNMF
from saev.files import fingerprint
from saev.recipes.fit import fit
from saev.runs.directory import results_of
from saev.saved import SavedDictionary, find_dictionaries
from saev.shards import ActivationStore
from saev.training.settings import FitSettings

SIZE = 1024  # prototypes of a baseline where there is no dictionary to equal
ACTIVE = 32  # latents of an untrained autoencoder that are active on a token


def baseline_size(asked: int | None, members: Sequence[SavedDictionary], n_tokens: int) -> int:
    """The prototypes of each baseline: as many as `asked`, or as the largest dictionary has; ValueError for more than tokens."""
    if asked is None:
        return min(max((int(one.config["n_latents"]) for one in members), default=SIZE), n_tokens)
    if asked > n_tokens:
        raise ValueError(f"baseline_size={asked}: there are only {n_tokens} training tokens: lower it.")
    return asked


def baseline(name: str, size: int) -> BaselineSettings:
    """The settings of a baseline with `size` prototypes, by its name.

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
    names: Sequence[str],
    size: int,
    store: ActivationStore,
    layer: int,
    directory: Path,
    *,
    tokens: Literal["patches", "cls", "special", "all"],
    seed: int,
    device: str,
    **held_out: Any,
) -> list[SavedDictionary]:
    """The baselines of a layer, fitted in a folder of `directory`, or as they were fitted there before.

    `held_out`: val_fraction, group and split of the datamodule; nothing: a tenth of the images is held out.
    """
    baselines = {name: baseline(name, size) for name in names}
    rows = {name: dataclasses.asdict(one) for name, one in baselines.items()}
    asked = {"baselines": rows, **held_out, "tokens": tokens, "seed": seed, "data": store.manifest.fingerprint}
    root = directory / "baselines" / f"layer{layer}-{fingerprint(asked)[:8]}"
    if results_of(root) is None:
        batch = FitSettings().batch_size
        data = ActivationDataModule(str(store.location.root), layer, batch, tokens=tokens, seed=seed, **held_out)
        shared = FitSettings(tokens=tokens, normalise="none", data_seed=seed, device=device)
        fit(data, layer, baselines, settings=shared, directory=root)
    return find_dictionaries(root)
