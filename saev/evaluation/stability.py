"""Whether dictionaries, e.g. of several seeds, have the same atoms: a row per pair, and a row per latent."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import torch

from saev.dictionary import Dictionary
from saev.metrics.stability import SAME, best_matches, stability
from saev.saved import SavedDictionary


def pairs(saved: list[SavedDictionary]) -> list[tuple[str, str]]:
    """Names of all pairs of dictionaries of one d_model."""
    return [(a.name, b.name) for a, b in itertools.combinations(saved, 2) if a.config["d_model"] == b.config["d_model"]]


def directions(dictionary: Dictionary) -> torch.Tensor:
    """Atoms in the space of raw activations: with normalise=standardise, times the scale of each dimension."""
    scale = getattr(getattr(dictionary, "normaliser", None), "scale", None)
    return dictionary.atoms if scale is None or scale.ndim == 0 else dictionary.atoms * scale


def compare(
    saved: list[SavedDictionary], members: Mapping[str, Dictionary], seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(a row per pair of dictionaries of one d_model, a row per dictionary and latent): how similar atoms are as directions of raw
    activations.

    Pairs: a, b and the numbers of `stability`. Latents: member, sha256 (of its weights; null in memory), latent, n_others, `stability`,
    the fraction of the n_others other dictionaries that have an atom with a cosine of SAME or more, and `stability_null`, the same
    where the dimensions of the others' atoms are permuted. Dictionaries without another are left out.
    """
    rows: list[dict[str, Any]] = []
    real: dict[str, list[np.ndarray]] = {}
    null: dict[str, list[np.ndarray]] = {}
    rng = np.random.default_rng(seed)
    for pair in pairs(saved):
        a, b = (directions(members[name]) for name in pair)
        permuted = torch.from_numpy(rng.permutation(a.shape[1])).to(a.device)
        matches = best_matches(a, b)
        numbers = stability(a, b, matches=matches)._asdict()
        rows.append({"a": pair[0], "b": pair[1], **{key: float(value) for key, value in numbers.items()}})
        for kept, of in ((real, matches), (null, best_matches(a, b[:, permuted]))):
            for name, cosine in zip(pair, (of.cosine_a, of.cosine_b), strict=True):
                kept.setdefault(name, []).append((cosine >= SAME).cpu().numpy())
    return pl.DataFrame(rows), pl.concat(
        latent_rows(one, real[one.name], null[one.name]) for one in saved if one.name in real
    )


def latent_rows(one: SavedDictionary, real: list[np.ndarray], null: list[np.ndarray]) -> pl.DataFrame:
    """The rows of one dictionary's latents, from whether each other dictionary has a similar atom."""
    weights = (one.config.get("sha256") or {}).get("weights")
    columns = {"stability": np.mean(real, 0), "stability_null": np.mean(null, 0)}
    return pl.DataFrame(columns).select(
        member=pl.lit(one.name), sha256=pl.lit(weights, pl.String), latent=pl.int_range(pl.len()),
        n_others=pl.lit(len(real), pl.Int64), stability="stability", stability_null="stability_null",
    )  # fmt: skip
