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


def pair_rows(saved: list[SavedDictionary], members: Mapping[str, Dictionary]) -> list[dict[str, Any]]:
    """A row per pair of dictionaries of one width: how similar their atoms are, as directions of raw activations."""
    rows = []
    for a, b in pairs(saved):
        numbers = stability(directions(members[a]), directions(members[b]))
        rows.append({"a": a, "b": b, **{key: float(value) for key, value in numbers._asdict().items()}})
    return rows


def directions(dictionary: Dictionary) -> torch.Tensor:
    """Atoms in the space of raw activations: with normalise=standardise, times the scale of each dimension."""
    scale = getattr(getattr(dictionary, "normaliser", None), "scale", None)
    return dictionary.atoms if scale is None or scale.ndim == 0 else dictionary.atoms * scale


def latents_in_others(saved: list[SavedDictionary], members: Mapping[str, Dictionary], seed: int = 0) -> pl.DataFrame:
    """A row per dictionary and latent: member, sha256 (of its weights; null in memory), latent, n_others, stability and stability_null.

    `stability`: the fraction of the n_others other dictionaries of one d_model that have an atom with a cosine of SAME or more;
    `stability_null`: the same where the dimensions of the others' atoms are permuted. Dictionaries without another are left out.
    """
    real: dict[str, list[np.ndarray]] = {}
    null: dict[str, list[np.ndarray]] = {}
    rng = np.random.default_rng(seed)
    for pair in pairs(saved):
        a, b = (directions(members[name]) for name in pair)
        permuted = torch.from_numpy(rng.permutation(a.shape[1])).to(a.device)
        for kept, other in ((real, b), (null, b[:, permuted])):
            for name, has in zip(pair, have_partner(a, other), strict=True):
                kept.setdefault(name, []).append(has)
    tables = [
        pl.DataFrame({
            "member": one.name, "sha256": [(one.config.get("sha256") or {}).get("weights")] * len(real[one.name][0]),
            "latent": np.arange(len(real[one.name][0])), "n_others": len(real[one.name]),
            "stability": np.mean(real[one.name], 0), "stability_null": np.mean(null[one.name], 0),
        }, schema_overrides={"sha256": pl.String, "n_others": pl.Int64})
        for one in saved if one.name in real
    ]  # fmt: skip
    return pl.concat(tables)


def have_partner(a: torch.Tensor, b: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of each atom of a whether b has one with a cosine of SAME or more, and of each of b whether a has."""
    matches = best_matches(a, b)
    return (matches.cosine_a >= SAME).cpu().numpy(), (matches.cosine_b >= SAME).cpu().numpy()
