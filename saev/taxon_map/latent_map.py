"""One dictionary's pooled codes against the nodes of a tree: counts, nulls, coalitions, and the order of rows and columns."""

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.sparse import csc_matrix

from saev.images.tables import shortened
from saev.scoring.blocks import size
from saev.shards.selected_tokens import Selection
from saev.taxon_map.coalitions import Judged, halves, judge, null_f1
from saev.taxon_map.order import clusters, evenly, explained, seriate
from saev.taxon_map.settings import CLUSTER, MapSettings
from saev.taxon_map.statistics import LEVEL, Counts, count, null_maxima, smallest_p
from saev.taxon_map.tree import Tree, group_leaves, tree_of

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LatentMap:
    """The comparison of one dictionary; images and latents are numbered within `selection.images` and `latents`."""

    name: str
    selection: Selection
    settings: MapSettings
    tree: Tree
    n_images: int  # those that fulfil `where`, of which clusters have a random part
    codes: csc_matrix  # [images, latents], pooled
    latents: Int64[np.ndarray, " latents"]  # the numbers in the dictionary
    explained: Float64[
        np.ndarray, " latents"
    ]  # fraction of a latent's variance over images with a taxon that lies between leaves
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
    order, permutations, n_coalition = None, settings.permutations, settings.n_coalition
    if tree is None:
        order, tree = cluster_tree(codes, settings.n_clusters)
        # clusters are made of these codes, on all images: permuted labels and halves would say nothing
        group, permutations, n_coalition = np.arange(len(order)), 0, 0
    leaf_of_group = group_leaves(tree, group, settings.group)
    maxima = null_maxima(fires, tree, group, leaf_of_group, permutations, settings.seed)
    if permutations:
        report_few(name, "", smallest_p(tree, leaf_of_group, np.bincount(group)), tree, settings)
    candidates, judged, coalition_null = np.arange(0), None, np.zeros((0, len(tree.nodes)))
    if n_coalition:
        half = halves(group, leaf_of_group, settings.seed)
        candidates = most_explained(codes, tree, settings.max_latents, half.training)
        dense = fires[:, candidates].toarray().astype(np.float32)
        judged = judge(dense, tree.leaf, half.training, tree, n_coalition)
        coalition_null = null_f1(dense, half, tree, n_coalition, settings.searches, settings.seed)
        if settings.searches:
            report_few(name, "coalitions: ", smallest_p(tree, leaf_of_group, half.strata), tree, settings)
    rows = evenly(tree.leaf, settings.max_images, settings.per_node, settings.seed) if order is None else order
    columns = most_explained(codes, tree, settings.max_latents)
    shown = codes[rows][:, columns].toarray().astype(np.float32)
    return LatentMap(
        name, selection, settings, tree, n_images, codes, latents, explained_by(codes, tree), count(fires, tree, tree.leaf),
        maxima, judged, candidates, coalition_null, rows, columns[seriate(shown)[0]], names,
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


def explained_by(
    codes: csc_matrix, tree: Tree, images: Bool[np.ndarray, " images"] | None = None
) -> Float64[np.ndarray, " latents"]:
    """The fraction of each latent's variance between leaves, over all or these images, as far as they have a taxon."""
    kept = tree.depth > 0
    if images is not None:
        kept &= images
    return explained(codes if kept.all() else codes.tocsr()[kept].tocsc(), tree.leaf[kept])


def most_explained(
    codes: csc_matrix, tree: Tree, most: int, images: Bool[np.ndarray, " images"] | None = None
) -> Int64[np.ndarray, " latents"]:
    """The latents with most of their variance (over all or these images) between leaves, at most so many, ascending."""
    if (n := size(codes)[1]) <= most:
        return np.arange(n)
    return np.sort(np.argsort(-explained_by(codes, tree, images), kind="stable")[:most])


def report_few(
    name: str, what: str, smallest: Float64[np.ndarray, " nodes"], tree: Tree, settings: MapSettings
) -> None:
    """Log the nodes whose images stay the same in more than the fraction `LEVEL` of the permutations."""
    if few := [node.name for node, p in zip(tree.nodes, smallest.tolist(), strict=True) if p > LEVEL]:
        units = f"groups ({settings.group}) with as many images" if settings.group else "images"
        log.warning(
            "%s: %sp cannot be %g or less where too few %s are inside and outside a node to be permuted: %s",
            name, what, LEVEL, units, shortened(few),
        )  # fmt: skip
