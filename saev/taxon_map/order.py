"""The order of the heat map: images by taxon or cluster, latents by the correlation of their codes."""

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage, optimal_leaf_ordering
from scipy.sparse import csc_matrix, csr_matrix
from scipy.spatial.distance import squareform

MOST_OPTIMAL = 1000  # items that are ordered optimally: half a second; 2,000 take 5 to 12 s


def evenly(
    leaf: Int64[np.ndarray, " images"], most: int, per_leaf: int | None, seed: int
) -> Int64[np.ndarray, " rows"]:
    """Images by leaf, of each leaf at most `per_leaf`, chosen at random; None: the largest number by which `most` remain.

    Where there are more than `most` leaves, or `per_leaf` gives more than `most` rows, rows are left out evenly.
    """
    sizes = np.bincount(leaf)
    if per_leaf is None:
        totals = np.cumsum(np.bincount(sizes)[::-1])[::-1][1:]  # leaves with at least n images
        per_leaf = max(1, int(np.searchsorted(np.cumsum(totals), most, "right")))
    shuffled = np.random.default_rng(seed).permutation(len(leaf))
    by_leaf = shuffled[np.argsort(leaf[shuffled], kind="stable")]
    rank = np.arange(len(leaf)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = by_leaf[rank < per_leaf]
    kept = kept[np.lexsort((kept, leaf[kept]))]
    return kept[np.arange(min(most, len(kept))) * len(kept) // min(most, len(kept))]


def explained(codes: csc_matrix, leaf: Int64[np.ndarray, " images"]) -> Float64[np.ndarray, " latents"]:
    """The fraction of each latent's variance over images that lies between leaves; 0 for a constant one."""
    n = len(leaf)
    sizes = np.bincount(leaf)
    kept = sizes > 0
    member = csr_matrix((np.ones(n), (leaf, np.arange(n))), (len(sizes), n))[kept]
    sums = (member @ codes).toarray()
    mean = sums.sum(0) / n
    total = np.asarray(codes.astype(np.float64).power(2).sum(0)).ravel() - n * mean**2
    between = (sums**2 / sizes[kept][:, None]).sum(0) - n * mean**2
    return np.divide(between, total, out=np.zeros_like(total), where=total > 1e-9 * n * mean**2)


def correlations(codes: Float32[np.ndarray, "observations items"]) -> Float32[np.ndarray, "items items"]:
    """The correlation of every two items; 0 where an item is constant."""
    centred = codes - codes.mean(0)
    norm = np.linalg.norm(centred, axis=0)
    centred /= np.where(norm > 1e-6 * np.maximum(np.abs(codes).max(0), 1e-30), norm, np.inf)
    return centred.T @ centred


def seriate(
    codes: Float32[np.ndarray, "observations items"],
) -> tuple[Int64[np.ndarray, " items"], Float64[np.ndarray, "merges 4"]]:
    """(order of the items, linkage): average linkage on 1 - correlation, so that items that vary together are neighbours.

    O(observations * items^2) for the correlations and O(items^2) for the linkage. Up to `MOST_OPTIMAL` items the leaves are
    ordered optimally (Bar-Joseph et al., 2001; at most O(items^3)); beyond, the two sides of a merge are in the order of the mean
    observation on which they have their codes.
    """
    n = codes.shape[1]
    if n == 1:
        return np.zeros(1, np.int64), np.zeros((0, 4))
    distance = 1 - correlations(codes)
    np.fill_diagonal(distance, 0)
    condensed = squareform(np.maximum(distance, 0), checks=False).astype(np.float64)
    merges = linkage(condensed, "average")
    if n <= MOST_OPTIMAL:
        merges = optimal_leaf_ordering(merges, condensed)
        return leaves_list(merges).astype(np.int64), merges
    weight = np.abs(codes)
    centre = (np.arange(len(codes)) @ weight) / np.maximum(weight.sum(0), 1e-30)
    return leaves_by_centre(merges, centre), merges


def leaves_by_centre(
    merges: Float64[np.ndarray, "merges 4"], centre: Float64[np.ndarray, " items"]
) -> Int64[np.ndarray, " items"]:
    """The items in an order of the linkage's leaves: of each merge first the side whose mean centre is smaller."""
    n = len(centre)
    sides = merges[:, :2].astype(np.int64)
    size, mean = np.concatenate([np.ones(n), merges[:, 3]]), np.concatenate([centre, np.zeros(len(merges))])
    for i, (a, b) in enumerate(sides):
        mean[n + i] = (size[a] * mean[a] + size[b] * mean[b]) / (size[a] + size[b])
    order, stack = [], [2 * n - 2]
    while stack:
        item = stack.pop()
        if item < n:
            order.append(item)
            continue
        a, b = sides[item - n]
        stack += [b, a] if mean[a] <= mean[b] else [a, b]  # the first is popped first
    return np.array(order, np.int64)


def clusters(
    codes: Float32[np.ndarray, "images latents"], n: int
) -> tuple[Int64[np.ndarray, " images"], Int64[np.ndarray, " images"]]:
    """(images in the order of `seriate` over their codes, number of each one's cluster, from 0 on in that order)."""
    order, merges = seriate(np.ascontiguousarray(codes.T))
    cluster = fcluster(merges, n, "maxclust") if len(merges) else np.ones(1, np.int64)
    names = {int(name): i for i, name in enumerate(dict.fromkeys(cluster[order].tolist()))}
    return order, np.array([names[int(name)] for name in cluster], np.int64)
