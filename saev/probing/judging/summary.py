"""Numbers of a dictionary: means over the classes that have validation tokens and a latent, with intervals over images."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from saev.probing.judging.bootstrap import average_precisions, cross_entropies, interval
from saev.probing.judging.class_metrics import ClassMetrics
from saev.probing.judging.firing_tokens import FiringTokens
from saev.probing.settings import Weights

TAUS = (0.3, 0.5, 0.7)


def summarise(judged: ClassMetrics, taus: Sequence[float] = TAUS) -> dict[str, float]:
    """`r` = 1 - sum of CE / sum of prevalence entropies; `r_macro` the mean of the classes' r; `map`, `auroc`, `f1`, `iou`,
    `precision16`, `purity16` means; `coverage_<tau>` the fraction of classes with AP >= tau; `n_classes` the classes counted."""
    known = judged.ap.isfinite()
    n = int(known.sum())
    if n == 0:
        return {"n_classes": 0}
    # A class of every validation token has no balanced cross-entropy and a prior of 0: it adds nothing.
    ce, prior, train_prior = (x[known].nansum() for x in (judged.ce, judged.ce_prevalence, judged.train_ce_prevalence))
    means = {"map": judged.ap, "auroc": judged.auroc, "f1": judged.f1, "iou": judged.iou}
    means |= {"precision16": judged.precision, "purity16": judged.purity}
    return {
        "n_classes": n,
        "r": float(1 - ce / prior) if prior > 0 else math.nan,
        "r_macro": float(judged.r[known].nanmean()),
        **{name: float(values[known].nanmean()) for name, values in means.items()},
        **{f"coverage_{tau}": float((judged.ap[known] >= tau).double().mean()) for tau in taus},
        "train_r": float(1 - judged.train_ce[known].sum() / train_prior),
    }


def intervals(
    judged: ClassMetrics,
    of_class: Int64[np.ndarray, " classes"],
    firing: FiringTokens,
    drawn: Int64[np.ndarray, "images n"],
    weights: Weights,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """95 % intervals over images: of each class's `ap` and `r`, and of the dictionary's `map` and `r`."""
    n_classes = len(of_class)
    aps, losses, priors = (np.full((n_classes, drawn.shape[1]), np.nan) for _ in range(3))
    for number in np.flatnonzero(np.isfinite(judged.ap.numpy())):
        evidence = firing.of(int(of_class[number]), int(number))
        aps[number] = average_precisions(evidence, drawn)
        b, w = float(judged.b[number]), float(judged.w[number])
        losses[number], priors[number] = cross_entropies(evidence, b, w, drawn, weights)
    rs = 1 - losses / np.where(priors > 0, priors, np.nan)
    ap, r = judged.ap.numpy(), judged.r.numpy()
    rows = [{**_ends("ap", aps[c], ap[c]), **_ends("r", rs[c], r[c])} for c in range(n_classes)]
    estimate = summarise(judged)
    if not estimate["n_classes"]:
        return rows, {}
    prior = np.nansum(priors, 0)
    total = 1 - np.nansum(losses, 0) / np.where(prior > 0, prior, np.nan)
    return rows, {**_ends("map", _mean(aps), estimate["map"]), **_ends("r", total, estimate["r"])}


def _mean(values: Float64[np.ndarray, "classes n"]) -> Float64[np.ndarray, " n"]:
    """Mean over the classes that a resample has."""
    finite = np.isfinite(values)
    return np.where(finite, values, 0).sum(0) / np.maximum(finite.sum(0), 1)


def _ends(name: str, values: Float64[np.ndarray, " n"], estimate: float) -> dict[str, float]:
    """The ends of the interval; those of an AP are clipped to [0, 1]."""
    low, high = interval(values, float(estimate))
    if name != "r":
        low, high = float(np.maximum(low, 0)), float(np.minimum(high, 1))
    return {f"{name}_low": low, f"{name}_high": high}
