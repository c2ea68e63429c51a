"""Coalitions of latents: AND / OR combinations, chosen greedily on half of the images and judged on the other half."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from saev.progress import bar
from saev.taxon_map.statistics import f1, permuted
from saev.taxon_map.tree import Tree

AND, OR = 0, 1
# In training F1 that a further latent must bring; with 0.01 coalitions for 50 images did worse on the others.
GAIN = 0.05


class Search(NamedTuple):
    """A coalition per node: latents and how each is joined to those before it; -1 beyond its end."""

    latents: Int64[np.ndarray, "nodes most"]
    joins: Int64[np.ndarray, "nodes most"]
    f1: Float32[np.ndarray, " nodes"]  # on the images it was chosen on

    def fires(self, fires: Float32[np.ndarray, "images latents"]) -> Float32[np.ndarray, "images nodes"]:
        """1 where a coalition fires on an image."""
        state = fires[:, self.latents[:, 0]]
        for latent, join in zip(self.latents.T[1:], self.joins.T[1:], strict=True):
            state = np.where(latent >= 0, combined(state, fires[:, latent], join), state)
        return state

    def text(self, node: int, names: Int64[np.ndarray, " latents"]) -> str:
        """The coalition of a node in words, evaluated from left to right: `12 and 40 or 7`."""
        parts = [str(names[self.latents[node, 0]])]
        for latent, join in zip(self.latents[node, 1:], self.joins[node, 1:], strict=True):
            parts += [("and", "or")[join], str(names[latent])] if latent >= 0 else []
        return " ".join(parts)


def combined(
    state: Float32[np.ndarray, "images nodes"],
    other: Float32[np.ndarray, "images nodes"],
    join: Int64[np.ndarray, " nodes"],
) -> Float32[np.ndarray, "images nodes"]:
    """1 where both fire, of nodes joined by OR where either fires."""
    return np.where(join == AND, state * other, np.maximum(state, other))


def search(
    fires: Float32[np.ndarray, "images latents"], members: Float32[np.ndarray, "images nodes"], most: int
) -> Search:
    """For each node the latent with the highest F1, then as long as F1 grows by `GAIN` the latent and the join that raise it most.

    All latents and nodes are tried at once: two matrix products per step. Ties go to AND, then to the lowest latent.
    """
    columns = np.arange(members.shape[1])
    size, firing, hits = members.sum(0), fires.sum(0)[:, None], fires.T @ members
    scores = f1(hits, firing, size)
    best = scores.argmax(0)
    value = scores[best, columns]
    latents, joins = (np.full((len(columns), most), -1) for _ in range(2))
    latents[:, 0] = best
    state, active = fires[:, best], np.ones(len(columns), bool)
    for step in range(1, most):
        state_hits = state * members
        both_hits, both = np.split(fires.T @ np.concatenate([state_hits, state], 1), 2, axis=1)
        either_hits, either = hits + state_hits.sum(0) - both_hits, firing + state.sum(0) - both
        scores = np.stack([f1(both_hits, both, size), f1(either_hits, either, size)])
        join, best = np.divmod(scores.reshape(-1, len(columns)).argmax(0), fires.shape[1])
        active &= scores[join, best, columns] > value + GAIN
        if not active.any():
            break
        state = np.where(active, combined(state, fires[:, best], join), state)
        value = np.where(active, scores[join, best, columns], value)
        latents[active, step], joins[active, step] = best[active], join[active]
    return Search(latents, joins, value.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Halves:
    """Images in two halves, groups of images undivided, with half of the groups of each leaf in each."""

    training: Bool[np.ndarray, " images"]
    group: Int64[np.ndarray, " images"]
    leaf_of_group: Int64[np.ndarray, " groups"]

    def permuted(self, rng: np.random.Generator) -> Int64[np.ndarray, " images"]:
        """The leaf of each image with the leaves permuted within `strata`."""
        return permuted(self.leaf_of_group, self.strata, rng)[self.group]

    @property
    def strata(self) -> Int64[np.ndarray, " groups"]:
        """A number for the groups of one half and as many images: nodes keep their sizes in each half."""
        other = np.zeros(len(self.leaf_of_group), np.int64)
        other[self.group] = ~self.training
        return 2 * np.bincount(self.group) + other


def halves(group: Int64[np.ndarray, " images"], leaf_of_group: Int64[np.ndarray, " groups"], seed: int) -> Halves:
    """Half of the groups of each leaf at random; the odd ones of leaves go to either half in turn."""
    order = np.random.default_rng(seed).permutation(len(leaf_of_group))
    order = order[np.argsort(leaf_of_group[order], kind="stable")]
    training = np.zeros(len(order), bool)
    training[order[::2]] = True
    return Halves(training[group], group, leaf_of_group)


class Judged(NamedTuple):
    """Coalitions, and their counts on the images that they were not chosen on."""

    search: Search
    hits: Float64[np.ndarray, " nodes"]
    firing: Float64[np.ndarray, " nodes"]
    size: Float64[np.ndarray, " nodes"]
    single: Float64[np.ndarray, " nodes"]  # F1 of the first latent alone

    @property
    def f1(self) -> Float64[np.ndarray, " nodes"]:
        return f1(self.hits, self.firing, self.size)


def judge(
    fires: Float32[np.ndarray, "images latents"],
    leaf: Int64[np.ndarray, " images"],
    training: Bool[np.ndarray, " images"],
    tree: Tree,
    most: int,
) -> Judged:
    """Search on the training half, count on the other."""
    members = tree.members(leaf)
    searched = search(fires[training], members[training], most)
    test, inside = fires[~training], members[~training]
    state, first, size = searched.fires(test), test[:, searched.latents[:, 0]], inside.sum(0)
    single = f1((first * inside).sum(0), first.sum(0), size)
    counts = ((state * inside).sum(0), state.sum(0), size, single)
    return Judged(searched, *(one.astype(np.float64) for one in counts))


def null_f1(
    fires: Float32[np.ndarray, "images latents"], half: Halves, tree: Tree, most: int, n: int, seed: int
) -> Float64[np.ndarray, "n nodes"]:
    """The F1 on the other half of coalitions that are searched with permuted leaves, `n` times."""
    rng = np.random.default_rng(seed)
    out = np.zeros((n, len(tree.nodes)))
    with bar("Coalitions with permuted taxa", n) as advance:
        for i in range(n):
            out[i] = judge(fires, half.permuted(rng), half.training, tree, most).f1
            advance(1)
    return out
