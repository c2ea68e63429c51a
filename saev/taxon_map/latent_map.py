"""One dictionary's pooled codes against the nodes of a tree: counts, nulls, coalitions, and the order of rows and columns."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.sparse import csc_matrix

from saev.scoring.blocks import size
from saev.shards.selected_tokens import Selection
from saev.taxon_map.coalitions import Judged, halves, judge, null_f1
from saev.taxon_map.order import clusters, evenly, explained, seriate
from saev.taxon_map.settings import CLUSTER, MapSettings
from saev.taxon_map.statistics import Counts, count, null_maxima
from saev.taxon_map.tree import Tree, group_leaves, tree_of


@dataclasses.dataclass(frozen=True)
class LatentMap:
    """The comparison of one dictionary; images and latents are numbered within `selection.images` and `latents`."""

    name: str
    selection: Selection
    settings: MapSettings
    tree: Tree
    codes: csc_matrix  # [images, latents], pooled
    latents: Int64[np.ndarray, " latents"]  # the numbers in the dictionary
    explained: Float64[np.ndarray, " latents"]  # fraction of a latent's variance that lies between leaves
    counts: Counts
    maxima: Float64[np.ndarray, "permutations nodes"]
    coalitions: Judged | None
    candidates: Int64[np.ndarray, " candidates"]  # latents of coalitions
    coalition_null: Float64[np.ndarray, "searches nodes"]
    rows: Int64[np.ndarray, " rows"]
    columns: Int64[np.ndarray, " columns"]
    names: Mapping[int, str]  # of annotated latents

    @property
    def shown(self) -> Float32[np.ndarray, "rows columns"]:
        """The codes of the heat map."""
        return self.codes[self.rows][:, self.columns].toarray().astype(np.float32)


def map_of(
    name: str,
    selection: Selection,
    pooled: csc_matrix,
    tree: Tree | None,
    group: Int64[np.ndarray, " images"],
    settings: MapSettings,
    names: Mapping[int, str] = {},
) -> LatentMap:
    """Compare pooled codes [images, latents] with a tree; None: with clusters of at most `max_images` of the images.

    ValueError where no latent, or only one, fires on `min_images` images.
    """
    n_images = size(pooled)[0]
    if tree is None and n_images > settings.max_images:
        kept = np.sort(np.random.default_rng(settings.seed).permutation(n_images)[: settings.max_images])
        pooled, selection = pooled.tocsr()[kept].tocsc(), dataclasses.replace(selection, images=selection.images[kept])
    fires = firing(pooled, settings.threshold)
    latents = np.flatnonzero(np.diff(fires.indptr) >= settings.min_images)
    if len(latents) < 2:
        raise ValueError(
            f"{name}: {len(latents)} latents fire on at least min_images={settings.min_images} of {n_images} images: "
            "lower min_images or threshold, or record more images."
        )
    codes, fires = pooled[:, latents], fires[:, latents]
    order, permutations, searches = None, settings.permutations, settings.searches
    if tree is None:
        order, tree = cluster_tree(codes, settings.n_clusters)
        # clusters are made of these codes: permuted labels would say nothing
        group, permutations, searches = np.arange(len(order)), 0, 0
    leaf_of_group = group_leaves(tree, group, settings.group)
    maxima = null_maxima(fires, tree, group, leaf_of_group, permutations, settings.seed)
    candidates, judged, coalition_null = np.arange(0), None, np.zeros((0, len(tree.nodes)))
    if settings.n_coalition:
        half = halves(group, leaf_of_group, settings.seed)
        candidates = most_explained(codes, tree.leaf, settings.max_latents, half.training)
        dense = fires[:, candidates].toarray().astype(np.float32)
        judged = judge(dense, tree.leaf, half.training, tree, settings.n_coalition)
        coalition_null = null_f1(dense, half, tree, settings.n_coalition, searches, settings.seed)
    rows = evenly(tree.leaf, settings.max_images, settings.per_node, settings.seed) if order is None else order
    columns = most_explained(codes, tree.leaf, settings.max_latents)
    shown = codes[rows][:, columns].toarray().astype(np.float32)
    return LatentMap(
        name, selection, settings, tree, codes, latents, explained(codes, tree.leaf), count(fires, tree, tree.leaf), maxima,
        judged, candidates, coalition_null, rows, columns[seriate(shown)[0]], names,
    )  # fmt: skip


def cluster_tree(codes: csc_matrix, n: int) -> tuple[Int64[np.ndarray, " images"], Tree]:
    """(images in the order of their clusters, a tree of one rank, `n` clusters)."""
    order, number = clusters(codes.toarray().astype(np.float32), n)
    width = len(str(number.max() + 1))
    return order, tree_of({CLUSTER: [f"{i + 1:0{width}}" for i in number.tolist()]}).separating()


def firing(pooled: csc_matrix, threshold: float) -> csc_matrix:
    """1 where the size of a code is above 0, and above this fraction of the latent's largest; int8 [images, latents]."""
    magnitude = abs(pooled)
    largest = magnitude.max(0).toarray().ravel()
    per_code = np.repeat(largest, np.diff(magnitude.indptr))
    above = (magnitude.data > threshold * per_code) & (magnitude.data > 0)
    fires = csc_matrix((above.astype(np.int8), magnitude.indices, magnitude.indptr), magnitude.shape)
    fires.eliminate_zeros()
    return fires


def most_explained(
    codes: csc_matrix, leaf: Int64[np.ndarray, " images"], most: int, images: Bool[np.ndarray, " images"] | None = None
) -> Int64[np.ndarray, " latents"]:
    """The latents with most of their variance (over all or these images) between leaves, at most so many, ascending."""
    if (n := size(codes)[1]) <= most:
        return np.arange(n)
    if images is not None:
        codes, leaf = codes.tocsr()[images].tocsc(), leaf[images]
    return np.sort(np.argsort(-explained(codes, leaf), kind="stable")[:most])
