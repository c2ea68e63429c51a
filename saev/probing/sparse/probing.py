"""k-sparse and image-level probes in `saev probe`: every class by the best k latents together, of tokens or of images.

one read of all codes ──▶ a sample of tokens, and images' pooled codes ──scikit-learn──▶ rows

Image level: an image's labels are those of its table; with labels of patches it has every class that one of its tokens has,
and images without a labelled token are left out. All of its tokens are pooled, labelled or not. Beside the k-sparse probes
there is one on all latents (k is None), with an L2 penalty chosen on held-out training images.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from rich.console import Console
from rich.progress import track
from scipy.sparse import csc_array

from saev.probing.data.sources import Source
from saev.probing.data.splits import Labelled
from saev.probing.sparse.linear_fits import LinearFit, judged, ridge_fit, standardised
from saev.probing.sparse.pooling import POOLINGS, pad_columns
from saev.probing.sparse.reading import View, read
from saev.probing.sparse.sparse_probes import SELECTIONS, sparse_probes

LEVELS = ("token", "image")
KEYS = ("member", "level", "pooling", "k", "selection")
NUMBERS = ("latents", "ridge", "converged", "train_ce", "ap", "ce", "ce_prevalence", "prevalence")

Fits = dict[int | None, tuple[LinearFit, float | None]]  # by k, None for all latents; and the ridge of those


def sparse_probing(
    settings: Mapping[str, Any], data: Labelled, sources: Sequence[Source]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(a row per dictionary, level, pooling, k and class; one per dictionary, level, pooling and k).

    `settings` is the `sparse` group of conf/probe.yaml. Codes are read once, for all dictionaries. Memory: 12 bytes per code of
    the sampled tokens and 28 per (image, latent) that fires, of all dictionaries (ValueError above `budget_gib`); then some
    50 per code of the one that is being probed.
    """
    check_sparse(settings)
    rows = [row for view in read(settings, data, sources) for row in class_rows(settings, data, view)]
    return rows, summaries(rows)


def class_rows(settings: Mapping[str, Any], data: Labelled, view: View) -> Iterator[dict[str, Any]]:
    """The rows of one dictionary at one level, class by class; those of a class without a probe have None and a reason."""
    train, val = standardised(*pad_columns(view.train.codes, view.val.codes))
    what = " ".join(part for part in ("Sparse probes:", view.member, view.level, view.pooling) if part)
    classes = list(zip(data.ids, data.names, strict=True))
    ks = [*sorted(settings["k"]), *([None] if view.level == "image" and settings["ridges"] else [])]
    for c, (id, name) in enumerate(track(classes, what, console=Console(stderr=True))):
        y, truth = view.train.of_class(c), view.val.of_class(c)
        reason = unfit(y, truth)
        found: Fits = {} if reason else fits(settings, train, y, ks)
        for k in ks:
            numbers: dict[str, Any] = dict.fromkeys(NUMBERS)
            if k in found:
                fit, ridge = found[k]
                latents = None if k is None else fit.latents.tolist()
                own = (latents, ridge, fit.converged, fit.loss)
                numbers |= dict(zip(NUMBERS[:4], own, strict=True)) | judged(fit.logits(val), truth)
            yield {
                "member": view.member,
                "level": view.level,
                "pooling": view.pooling,
                "k": k,
                "selection": None if k is None else settings["selection"],
                "class_id": id,
                "class": name,
                "n_train": int(y.sum()),
                "n_val": int(truth.sum()),
                "reason": reason,
                **numbers,
            }


def fits(settings: Mapping[str, Any], train: csc_array, y: Bool[np.ndarray, " rows"], ks: Sequence[int | None]) -> Fits:
    """The probes of one class."""
    few = [k for k in ks if k is not None]
    found: Fits = {}
    if few:
        probes = sparse_probes(train, y, few, settings["selection"], settings["candidates"])
        found |= {k: (probe, None) for k, probe in probes.items()}
    if None in ks:
        found[None] = ridge_fit(train, y, settings["ridges"], settings["seed"])
    return found


def unfit(y: Bool[np.ndarray, " train"], truth: Bool[np.ndarray, " val"]) -> str | None:
    """Why a class cannot be probed or judged; None where it can."""
    if not y.any():
        return "no training row is of the class"
    if y.all():
        return "all training rows are of the class"
    return None if truth.any() else "no validation row is of the class"


def summaries(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per dictionary, level, pooling and k, over the classes with a probe: `map`, `r` = 1 - sum of CE / sum of prevalence
    entropies, how many classes, and how many fits scikit-learn gave up before they converged."""
    found, groups = [], defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in KEYS)].append(row)
    for key, group in groups.items():
        known = [row for row in group if row["reason"] is None]
        prior = sum(row["ce_prevalence"] for row in known)
        found.append({
            **dict(zip(KEYS, key, strict=True)),
            "n_classes": len(known),
            "map": float(np.mean([row["ap"] for row in known])) if known else None,
            "r": 1 - sum(row["ce"] for row in known) / prior if prior else None,
            "unconverged": sum(not row["converged"] for row in known),
        })  # fmt: skip
    return found


def check_sparse(settings: Mapping[str, Any]) -> None:
    """ValueError for values out of bounds, before anything is loaded."""
    for key, known in (("levels", LEVELS), ("pooling", POOLINGS)):
        if not settings[key] or set(settings[key]) - set(known):
            raise ValueError(f"sparse.{key}={list(settings[key])}: choose of {list(known)}, at least one.")
    if settings["selection"] not in SELECTIONS:
        raise ValueError(f"sparse.selection={settings['selection']}: choose {' or '.join(SELECTIONS)}.")
    ks = list(settings["k"])
    if any(not isinstance(k, int) or k < 1 for k in ks) or len({*ks}) < len(ks):
        raise ValueError(f"sparse.k={ks}: give different numbers of latents, each at least 1.")
    if not ks and (not settings["ridges"] or "image" not in settings["levels"]):
        raise ValueError("sparse.k=[] leaves nothing to fit: give numbers of latents, or levels=[image] and ridges.")
    if any(ridge <= 0 for ridge in settings["ridges"]):
        raise ValueError(
            f"sparse.ridges={list(settings['ridges'])}: give penalties above 0, or [] for k-sparse probes alone."
        )
    for key, least in (("candidates", 1), ("tokens", 2)):
        if settings[key] < least:
            raise ValueError(f"sparse.{key}={settings[key]}: give at least {least}.")
    if settings["budget_gib"] <= 0:
        raise ValueError(f"sparse.budget_gib={settings['budget_gib']}: give gibibytes above 0.")
