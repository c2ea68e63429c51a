"""A threshold on a latent's code that tells two groups apart: chosen on training folds, judged on the held-out ones."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from saev.contrasts.ranks import Entries
from saev.contrasts.separation import quantiles
from saev.contrasts.sides import Sides

Rule = Literal["strict", "saev"]


def held_out_f1(
    entries: Entries,
    sides: Sides,
    fold: Int64[np.ndarray, " clusters"],
    higher_a: Bool[np.ndarray, "latents folds"],
    rule: Rule = "strict",
) -> dict[str, Float64[np.ndarray, " latents"]]:
    """precision, recall, f1 of each latent over the held-out folds together, and the mean threshold.

    An image is said to be in the higher group, that of `higher_a` by the training folds, where its code is at least the
    threshold (`rule` saev: above it). strict: the threshold above 0 with the largest F1 on the training folds, of several the
    largest; saev: the 95th percentile of the other group's codes there. NaN: precision where no image is above the threshold,
    the threshold where no image fires.
    """
    n = entries.n_latents
    of_image, in_a = fold[sides.cluster], sides.is_a[entries.position]
    hits, predicted, positives, total, chosen = (np.zeros(n) for _ in range(5))
    for number in range(higher_a.shape[1]):
        higher = higher_a[:, number]
        inside = of_image[entries.position] == number
        hit = in_a == higher[entries.latent]
        n_a, n_b = (np.count_nonzero((of_image != number) & group) for group in (sides.is_a, ~sides.is_a))
        if rule == "strict":
            threshold = best_f1(entries, ~inside, hit, np.where(higher, n_a, n_b))
            above = inside & (entries.value >= threshold[entries.latent])
        else:
            other = entries.kept(~inside & ~hit)
            threshold = quantiles(other, np.where(higher, n_b, n_a), (0.95,))[:, 0]
            above = inside & (entries.value > np.maximum(threshold, 0)[entries.latent])
        hits += np.bincount(entries.latent, above & hit, n)
        predicted += np.bincount(entries.latent, above, n)
        held_a, held_b = len(sides.a) - n_a, len(sides.b) - n_b
        positives += np.where(higher, held_a, held_b)
        total += np.where(np.isfinite(threshold), threshold, 0)
        chosen += np.isfinite(threshold)
    nan = np.full(n, np.nan)
    return {
        "precision": np.divide(hits, predicted, out=nan.copy(), where=predicted > 0),
        "recall": hits / positives,
        "f1": 2 * hits / (predicted + positives),
        "threshold": np.divide(total, chosen, out=nan.copy(), where=chosen > 0),
    }


def best_f1(
    entries: Entries,
    training: Bool[np.ndarray, " entries"],
    hit: Bool[np.ndarray, " entries"],
    positives: Int64[np.ndarray, " latents"],
) -> Float64[np.ndarray, " latents"]:
    """The code above 0 with the largest F1 of `code >= threshold` for the entries that hit; infinite where none fires."""
    at = np.flatnonzero(training & (entries.value > 0))
    latent, tie = entries.latent[at], entries.tie[at]
    stored = np.bincount(latent, minlength=entries.n_latents)
    before = np.append(0, np.cumsum(hit[at]))
    first = np.cumsum(stored) - stored
    last = np.flatnonzero(np.diff(tie, append=-1) != 0)  # of each group of ties
    of_latent = latent[last]
    hits = before[last + 1] - before[first[of_latent]]
    f1 = 2 * hits / (last + 1 - first[of_latent] + positives[of_latent])
    fires, starts = np.unique(of_latent, return_index=True)
    threshold = np.full(entries.n_latents, np.inf)
    if len(fires):
        best = np.zeros(entries.n_latents)
        best[fires] = np.maximum.reduceat(f1, starts)
        largest = np.flatnonzero(f1 == best[of_latent])
        latents, index = np.unique(of_latent[largest], return_index=True)
        threshold[latents] = entries.value[at[last[largest[index]]]]
    return threshold
