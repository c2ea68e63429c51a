"""Partners of separating latents in other runs, of any seed, width, layer or backbone, over the same images."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from saev.annotations import with_names
from saev.contrasts.methods import Method
from saev.contrasts.partners import partners
from saev.contrasts.settings import ContrastSettings
from saev.contrasts.study import Other, Study
from saev.saved import SavedDictionary, layer_of, open_recording
from saev.scoring.blocks import Scores
from saev.scoring.images import scores_of_images
from saev.shards import ActivationStore
from saev.shards.selected_tokens import Selection

log = logging.getLogger(__name__)
MOST = 200  # latents of a method that partners are looked for
SCHEMA = {
    "layer": pl.Int64, "method": pl.String, "latent": pl.Int64, "name": pl.String, "run": pl.String, "run_layer": pl.Int64,
    "partner": pl.Int64, "partner_name": pl.String,
    "correlation": pl.Float64, "jaccard": pl.Float64, "null": pl.Float64, "matched": pl.Boolean, "n_images": pl.Int64,
}  # fmt: skip


def shared_images(study: Study, store: ActivationStore, layer: int, name: str) -> Int64[np.ndarray, " images"]:
    """For each of the study's images its number in another recording, -1 where it has none with tokens.

    ValueError where fewer than half of them are there: the recordings are of different images.
    """
    if store.manifest.fingerprint == study.store.manifest.fingerprint:
        return study.images
    stored = store.tokens_per_image(layer)
    number = {path: i for i, path in enumerate(store.examples["path"].to_list()) if stored[i]}
    paths = study.store.examples["path"].to_list()
    out = np.array([number.get(paths[i], -1) for i in study.images.tolist()], np.int64)
    if np.count_nonzero(out >= 0) < len(out) / 2:
        raise ValueError(
            f"runs: {name} was trained on {store.name}, which has {np.count_nonzero(out >= 0)} of the {len(out)} compared images: "
            "name runs over the same images."
        )
    return out


def open_others(study: Study, others: Sequence[SavedDictionary], root: str | os.PathLike | None = None) -> list[Other]:
    """The dictionaries of other runs; those that the study itself has are left out. ValueError where images differ."""
    known = {one.path for one in study.members if one.path is not None}
    out = []
    for one in others:
        if one.path in known:
            continue
        trained = one.provenance.get("dataset_fingerprint")
        same = trained == study.store.manifest.fingerprint or one.provenance.get("dataset") is None
        store = open_recording(one, study.store if same else None, root)
        layer = layer_of(one, store)
        shared_images(study, store, layer, one.name)
        out.append(Other(one, store, layer))
    return out


def partner_rows(
    study: Study,
    methods: Mapping[str, tuple[Method, Int64[np.ndarray, " latents"]]],
    settings: ContrastSettings,
    codes: str | os.PathLike | None,
    device: str,
) -> pl.DataFrame:
    """A row per latent and other dictionary: its partner, one-to-one. `methods`: with the latents that partners are looked for."""
    parts = []
    for one, store, layer in study.others:
        named = one.names()
        there = shared_images(study, store, layer, one.name)
        both = np.flatnonzero(there >= 0)
        images = np.unique(there[both])
        scores = scores_of_images(
            [one], {}, {one.name: Selection(store, layer, images, settings.tokens)}, settings.pool, codes=codes,
            batch_size=settings.batch_size, device=device,
        )[0][one.name][one.name]  # fmt: skip
        other: Scores = scores[np.searchsorted(images, there[both])]
        for name, (method, latents) in methods.items():
            found = partners(method.scores[both], latents, other, seed=settings.seed)
            columns: dict[str, Any] = {
                "layer": study.layer, "method": name, "latent": latents, "run": one.name, "run_layer": layer,
                "partner": pl.Series(found.latent).replace(-1, None), "correlation": found.correlation.astype(np.float64),
                "jaccard": found.jaccard.astype(np.float64), "null": found.null.astype(np.float64),
                "matched": found.matched(), "n_images": len(both),
            }  # fmt: skip
            rows = with_names(pl.DataFrame(columns), method.names)
            parts.append(with_names(rows, named, "partner", "partner_name").cast(pl.Schema(SCHEMA)))
    return pl.concat(parts) if parts else pl.DataFrame(schema=SCHEMA)


def separating(contrast: pl.DataFrame, method: str, layer: int, alpha: float) -> Int64[np.ndarray, " latents"]:
    """The latents of a method that separate a pair, those with the largest |z| first, at most MOST."""
    rows = contrast.filter((pl.col("method") == method) & (pl.col("layer") == layer) & (pl.col("p_family") <= alpha))
    best = rows.group_by("latent").agg(pl.col("z").abs().max()).sort("z", "latent", descending=[True, False])
    if len(best) > MOST:
        log.info("%s: partners of the %d latents with the largest |z|, of %d that separate", method, MOST, len(best))
    return best["latent"].head(MOST).to_numpy().astype(np.int64)
