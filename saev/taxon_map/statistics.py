"""How well the firing of each latent coincides with each node, and the null with permuted labels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64, Num
from scipy.sparse import csc_matrix
from scipy.special import gammaln
from scipy.stats import hypergeom

from saev.progress import bar
from saev.scoring.blocks import size
from saev.taxon_map.tree import Tree

LEVEL = 0.05  # p up to which a latent counts as above the null

BLOCK = 1 << 23  # (latent, leaf) counts in memory at once


class Counts(NamedTuple):
    """Images in a node on which a latent fires (`hits`), on which it fires at all, and in the node."""

    hits: Num[np.ndarray, "latents nodes"]
    firing: Num[np.ndarray, " latents"]
    size: Num[np.ndarray, " nodes"]

    def sufficiency(self) -> Float[np.ndarray, "latents nodes"]:
        """The fraction of a latent's firing images that are in the node."""
        return self.hits / np.maximum(self.firing, 1)[:, None]

    def necessity(self) -> Float[np.ndarray, "latents nodes"]:
        """The fraction of the node's images on which the latent fires."""
        return self.hits / np.maximum(self.size, 1)

    def f1(self) -> Float[np.ndarray, "latents nodes"]:
        """The harmonic mean of sufficiency and necessity: 2 hits / (firing + size)."""
        return f1(self.hits, self.firing[:, None], self.size)


def f1(
    hits: Num[np.ndarray, "*n"], firing: Num[np.ndarray, "*#n"], size: Num[np.ndarray, "*#n"]
) -> Float[np.ndarray, "*n"]:
    """2 hits / (firing + size); 0 where nothing fires and the node is empty."""
    return 2 * hits / np.maximum(firing + size, 1)


def count(fires: csc_matrix, tree: Tree, leaf: Int64[np.ndarray, " images"]) -> Counts:
    """The counts of all latents [images, latents] and nodes where images have these leaves."""
    n_latents = size(fires)[1]
    firing = np.diff(fires.indptr).astype(np.int64)
    latent = np.repeat(np.arange(n_latents), firing)
    of_leaves = np.bincount(latent * tree.n_leaves + leaf[fires.indices], minlength=n_latents * tree.n_leaves)
    of_nodes = tree.over_nodes(np.bincount(leaf, minlength=tree.n_leaves)[None])[0]
    return Counts(tree.over_nodes(of_leaves.reshape(n_latents, tree.n_leaves)), firing, of_nodes)


def tail(
    counts: Counts, n_images: int, latent: Int64[np.ndarray, " pairs"], node: Int64[np.ndarray, " pairs"]
) -> Float64[np.ndarray, " pairs"]:
    """For (latent, node) pairs the hypergeometric probability of at least as many hits by as many images drawn at random.

    Images are taken as independent: those of one specimen are not, the permuted null allows for that.
    """
    return hypergeom.sf(counts.hits[latent, node] - 1, n_images, counts.size[node], counts.firing[latent])


def permuted(
    values: Int64[np.ndarray, " n"], strata: Int64[np.ndarray, " n"], rng: np.random.Generator
) -> Int64[np.ndarray, " n"]:
    """The values permuted within each stratum."""
    out = values.copy()
    for stratum in np.unique(strata):
        out[strata == stratum] = rng.permutation(values[strata == stratum])
    return out


def smallest_p(
    tree: Tree, leaf_of_group: Int64[np.ndarray, " groups"], strata: Int64[np.ndarray, " groups"]
) -> Float64[np.ndarray, " nodes"]:
    """The probability that permuted leaves give a node the groups that it has: no p is expected below it."""
    inside = tree.members(leaf_of_group)
    log_ways = np.zeros(len(tree.nodes))
    for stratum in np.unique(strata):
        n, k = np.count_nonzero(strata == stratum), inside[strata == stratum].sum(0)
        log_ways += gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return np.exp(-log_ways)


def null_maxima(
    fires: csc_matrix,
    tree: Tree,
    group: Int64[np.ndarray, " images"],
    leaf_of_group: Int64[np.ndarray, " groups"],
    n: int,
    seed: int = 0,
) -> Float64[np.ndarray, "n nodes"]:
    """The largest F1 over all latents for each node, with the leaves of groups of images permuted, `n` times.

    Leaves are permuted among groups of as many images, so that nodes keep their sizes, on which the F1 of chance depends.
    Time: the codes' entries per permutation, as counts of inner nodes are sums of those of leaves.
    """
    rng = np.random.default_rng(seed)
    leaves = [permuted(leaf_of_group, np.bincount(group), rng)[group] for _ in range(n)]
    largest = np.zeros((n, len(tree.nodes)))
    width = max(1, BLOCK // tree.n_leaves)
    starts = range(0, size(fires)[1], width)
    with bar("Permutations", n * len(starts)) as advance:
        for start in starts:
            block = fires[:, start : start + width]
            for i, leaf in enumerate(leaves):
                largest[i] = np.maximum(largest[i], count(block, tree, leaf).f1().max(0))
                advance(1)
    return largest


def family_wise_p(
    f1: Float64[np.ndarray, "pairs"], node: Int64[np.ndarray, " pairs"], maxima: Float64[np.ndarray, "n nodes"]
) -> Float64[np.ndarray, " pairs"]:
    """(1 + permutations whose largest F1 reaches a pair's) / (1 + permutations); NaN without permutations.

    For each node over all latents: of nodes without a latent, 5 % have one with p at most 0.05.
    """
    if not len(maxima):
        return np.full(len(f1), np.nan)
    ordered = np.sort(maxima, 0)
    reached = np.array([len(maxima) - np.searchsorted(ordered[:, k], value) for value, k in zip(f1, node, strict=True)])
    return (1 + reached) / (1 + len(maxima))
