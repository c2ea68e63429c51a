"""A threshold on a latent's code that tells two groups apart: chosen on training folds, judged on the held-out ones."""

from typing import Literal, NamedTuple

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
    of_image = fold[sides.cluster]
    firing = entries.kept(entries.value > 0)
    groups = tie_groups(firing)
    in_a, of_entry = sides.is_a[firing.position], of_image[firing.position]
    hits, predicted, positives, total, chosen = (np.zeros(n) for _ in range(5))
    for number in range(higher_a.shape[1]):
        higher = higher_a[:, number]
        inside, hit = of_entry == number, in_a == higher[firing.latent]
        n_a, n_b = (np.count_nonzero((of_image != number) & group) for group in (sides.is_a, ~sides.is_a))
        if rule == "strict":
            threshold = best_f1(firing, groups, ~inside, hit, np.where(higher, n_a, n_b))
            above = firing.value >= threshold[firing.latent]
        else:
            other = (of_image[entries.position] != number) & (sides.is_a[entries.position] != higher[entries.latent])
            threshold = quantiles(entries.kept(other), np.where(higher, n_b, n_a), (0.95,))[:, 0]
            above = firing.value > threshold[firing.latent]
        said = np.flatnonzero(inside & above)
        predicted += np.bincount(firing.latent[said], minlength=n)
        hits += np.bincount(firing.latent[said], hit[said], n)
        positives += np.where(higher, len(sides.a) - n_a, len(sides.b) - n_b)
        total += np.where(np.isfinite(threshold), threshold, 0)
        chosen += np.isfinite(threshold)
    nan = np.full(n, np.nan)
    return {
        "precision": np.divide(hits, predicted, out=nan.copy(), where=predicted > 0),
        "recall": hits / positives,
        "f1": 2 * hits / (predicted + positives),
        "threshold": np.divide(total, chosen, out=nan.copy(), where=chosen > 0),
    }


class TieGroups(NamedTuple):
    """Groups of entries with equal codes."""

    stop: Int64[np.ndarray, " groups"]  # the entry after the last one
    latent: Int64[np.ndarray, " groups"]
    first: Int64[np.ndarray, " groups"]  # entry of the latent
    latents: Int64[np.ndarray, " firing"]  # with entries
    start: Int64[np.ndarray, " firing"]  # first group of each of these


def tie_groups(entries: Entries) -> TieGroups:
    """The groups of ties of each latent."""
    last = np.flatnonzero(np.diff(entries.tie, append=-1))
    latent = entries.latent[last]
    first = np.searchsorted(entries.latent, np.arange(entries.n_latents))
    latents, start = np.unique(latent, return_index=True)
    return TieGroups(last + 1, latent, first[latent], latents, start)


def best_f1(
    firing: Entries,
    groups: TieGroups,
    training: Bool[np.ndarray, " entries"],
    hit: Bool[np.ndarray, " entries"],
    positives: Int64[np.ndarray, " latents"],
) -> Float64[np.ndarray, " latents"]:
    """The training code with the largest F1 of `code >= threshold` for the entries that hit; infinite where none fires."""
    threshold = np.full(firing.n_latents, np.inf)
    if not len(groups.latents):
        return threshold
    up_to, hits_up_to = (np.append(0, np.cumsum(mask, dtype=np.int32)) for mask in (training, training & hit))
    counted = up_to[groups.stop]
    f1 = 2 * (hits_up_to[groups.stop] - hits_up_to[groups.first])
    f1 = f1 / (counted - up_to[groups.first] + positives[groups.latent])
    f1[np.diff(counted, prepend=0) == 0] = -1  # held-out codes alone
    best = np.full(firing.n_latents, np.inf)
    best[groups.latents] = np.maximum.reduceat(f1, groups.start)
    largest = np.flatnonzero((f1 == best[groups.latent]) & (f1 >= 0))
    latents, index = np.unique(groups.latent[largest], return_index=True)
    threshold[latents] = firing.value[groups.stop[largest[index]] - 1]
    return threshold
