"""k-sparse and image-level probes: every class by its best k latents together, of tokens or of images.

one read of all codes ──▶ a sample of tokens, and images' pooled codes ──scikit-learn──▶ rows

Image level: an image's labels are those of its table; with patch labels it has every class that one of its tokens has, and
images without a labelled token are left out. All of its tokens are pooled, labelled or not. Beside the k-sparse probes there
is one on all latents (k is None), with an L2 penalty chosen on held-out training images. Raw activations, untrained directions
and permuted labels have rows too: pooled over an image, many directions of any kind tell classes apart.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from scipy.sparse import csc_array

from saev.metrics.resampling import MIN_IMAGES
from saev.probing.passes import Source
from saev.probing.rows import ends, none_if_nan
from saev.probing.scores import resampled
from saev.probing.settings import SparseSettings
from saev.probing.sparse.codes import Rows, View, pad_columns, read_views
from saev.probing.sparse.linear_fits import LinearFit, evaluate_logits, ridge_fit, standardised
from saev.probing.sparse.sparse_probes import sparse_probes
from saev.probing.splits import LabelledData
from saev.progress import bar

KEYS = ("member", "labels", "level", "pooling", "k", "selection")
NUMBERS = ("latents", "ridge", "converged", "train_ce", "ap", "ce", "ce_prevalence", "prevalence")

Fits = dict[int | None, tuple[LinearFit, float | None]]  # by k, None for all latents, whose ridge comes second


def sparse_probing(
    settings: SparseSettings,
    data: LabelledData,
    sources: Sequence[Source],
    references: Source | None = None,
    drawn: Int64[np.ndarray, "images n"] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(a row per dictionary, labels, level, pooling, k and class; one per dictionary, labels, level, pooling and k).

    `references` are further dictionaries, probed at the image level; `drawn` are resamples of the validation images, for intervals
    at the image level.

    Codes are read once, for all dictionaries. Memory: 12 bytes per code of the sampled tokens and 24 per (image, latent) that
    fires, of all dictionaries (ValueError above `budget_gib`); then some 50 per code of the dictionary that is being probed.
    """
    rows, totals = [], []
    n, views = read_views(settings, data, sources, references)
    with bar("Sparse probes", n * len(data.ids)) as advance:
        for view in views:
            of_view = [*class_rows(settings, data, view, advance)]
            summed = summaries(of_view)
            if view.level == "image":
                for i, total in enumerate(summed):
                    total |= over_images(view.val, of_view[i :: len(summed)], total["map"], drawn)
            rows, totals = rows + of_view, totals + summed
    return rows, totals


def over_images(
    val: Rows, rows: list[dict[str, Any]], map: float | None, drawn: Int64[np.ndarray, "images n"] | None
) -> dict[str, float | None]:
    """`accuracy` of the probes of all classes together, its interval and that of `map`. The rows of the classes lose `scores` and get
    `ap_low` and `ap_high`, None for a class in fewer than MIN_IMAGES images (or groups of images)."""
    unscored = np.full(len(val.labels), np.nan)
    scores = np.stack([row.pop("scores", unscored) for row in rows], 1).astype(np.float32)
    once = np.ones((int(val.cluster.max()) + 1 if drawn is None else len(drawn), 1), np.int64)
    numbers: dict[str, float | None] = {"accuracy": float(resampled(scores, val.labels, val.cluster, once).accuracy[0])}
    if drawn is None:
        return numbers
    sample = resampled(scores, val.labels, val.cluster, drawn)
    for c, row in enumerate(rows):
        few = len(np.unique(val.cluster[val.of_class(c)])) < MIN_IMAGES
        bounds = ends("ap", sample.ap[c], None if few else row["ap"])
        row |= {key: none_if_nan(value) for key, value in bounds.items()}
    return numbers | sample.intervals({"map": map, **numbers}, len(drawn))


def class_rows(
    settings: SparseSettings, data: LabelledData, view: View, advance: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    """The rows of one dictionary at one level, class by class; those of a class without a probe have a reason and no numbers.

    `advance` is called with 1 after each class.
    """
    train, val = standardised(*pad_columns(view.train.codes, view.val.codes))
    ks = [*sorted(settings.k), *([None] if view.level == "image" and settings.ridges else [])]
    for c, (id, name) in enumerate(zip(data.ids, data.names, strict=True)):
        y, truth = view.train.of_class(c), view.val.of_class(c)
        reason = reason_not_to_fit(y, truth)
        fits: Fits = {} if reason else fit_class(settings, train, y, ks, view.train.cluster)
        for k in ks:
            numbers: dict[str, Any] = dict.fromkeys(NUMBERS)
            if k in fits:
                fit, ridge = fits[k]
                training = (None if k is None else fit.latents.tolist(), ridge, fit.converged, fit.loss)
                numbers |= dict(zip(NUMBERS[:4], training, strict=True)) | evaluate_logits(fit.logits(val), truth)
                if view.level == "image":
                    numbers["scores"] = fit.logits(val)
            yield {
                "member": view.member,
                "labels": view.labels,
                "level": view.level,
                "pooling": view.pooling,
                "k": k,
                "selection": None if k is None else settings.selection,
                "class_id": id,
                "class": name,
                "n_rows_train": int(y.sum()),
                "n_rows_val": int(truth.sum()),
                "reason": reason,
                **numbers,
            }
        advance(1)


def fit_class(
    settings: SparseSettings,
    train: csc_array,
    y: Bool[np.ndarray, " rows"],
    ks: Sequence[int | None],
    cluster: Int64[np.ndarray, " rows"],
) -> Fits:
    """The probes of one class."""
    fits: Fits = {}
    if sizes := [k for k in ks if k is not None]:
        probes = sparse_probes(train, y, sizes, settings.selection, settings.candidates)
        fits |= {k: (probe, None) for k, probe in probes.items()}
    if None in ks:
        fits[None] = ridge_fit(train, y, settings.ridges, settings.seed, cluster)
    return fits


def reason_not_to_fit(y: Bool[np.ndarray, " train"], truth: Bool[np.ndarray, " val"]) -> str | None:
    """Why a class cannot be fitted or evaluated; None where it can."""
    if not y.any():
        return "no training row is of the class"
    if y.all():
        return "all training rows are of the class"
    return None if truth.any() else "no validation row is of the class"


def summaries(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per dictionary, labels, level, pooling and k, over the classes with a probe: their number, `map`, `r` = 1 - sum of CE / sum of
    prevalence entropies, and the number of fits that did not converge."""
    means, groups = [], defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in KEYS)].append(row)
    for key, group in groups.items():
        fitted = [row for row in group if row["reason"] is None]
        prior = sum(row["ce_prevalence"] for row in fitted)
        means.append({
            **dict(zip(KEYS, key, strict=True)),
            "n_classes": len(fitted),
            "map": float(np.mean([row["ap"] for row in fitted])) if fitted else None,
            "r": 1 - sum(row["ce"] for row in fitted) / prior if prior else None,
            "unconverged": sum(not row["converged"] for row in fitted),
        })  # fmt: skip
    return means
