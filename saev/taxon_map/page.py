"""map.html of one dictionary: the heat map, and pictures of each node's best latent."""

from pathlib import Path

import numpy as np
import polars as pl

from saev.images.source import ImageSource
from saev.taxon_map.latent_map import LatentMap
from saev.taxon_map.settings import CLUSTER
from saev.taxon_map.tree import Node
from saev.visuals.map_page import HeatMap, MapNode, write_map_page

TOP = 8  # images of a node


def write_page(
    path: Path, one: LatentMap, tables: dict[str, pl.DataFrame], images: ImageSource | None, files: dict[str, Path]
) -> Path:
    """Write the page of one dictionary, from its tables; its path."""
    return write_map_page(
        path, heat_map(one, tables["results"]), tables["results"], tables["nodes"], tables["coalitions"],
        store=one.selection.store, facts=facts_of(one), images=images, files=files,
        credits=[images.credits()] if images is not None else [], title=f"Map of {one.name}",
    )  # fmt: skip


def heat_map(one: LatentMap, results: pl.DataFrame) -> HeatMap:
    """What the page shows of a map."""
    leaf, codes = one.tree.leaf, one.shown
    number = {latent: i for i, latent in enumerate(one.latents.tolist())}
    nodes = []
    for node, latent in zip(one.tree.nodes, results["latent"], strict=True):
        first, stop = np.searchsorted(leaf[one.rows], [node.first, node.stop]).tolist()
        top = top_images(one, node, number[latent])
        nodes.append(MapNode(node.name, node.rank, node.value, node.depth, first, stop, top))
    return HeatMap(
        codes,
        one.selection.images[one.rows],
        one.latents[one.columns],
        one.tree.ranks,
        nodes,
        one.names,
        one.tree.common,
    )


def top_images(one: LatentMap, node: Node, latent: int) -> list[tuple[int, float, bool]]:
    """(image, code, whether it is in the node) of the images with a latent's largest codes."""
    column = one.codes[:, [latent]].toarray().ravel()
    top = [i for i in np.argsort(-column, kind="stable")[:TOP].tolist() if column[i]]
    inside = (one.tree.leaf >= node.first) & (one.tree.leaf < node.stop)
    return [(int(one.selection.images[i]), float(column[i]), bool(inside[i])) for i in top]


def facts_of(one: LatentMap) -> list[tuple[str, str]]:
    """What was compared, as (name, value) pairs."""
    settings, n_images, n_latents = one.settings, len(one.tree.leaf), len(one.latents)
    rows, columns = len(one.rows), len(one.columns)
    chosen = f" where {settings.where}" if settings.where else ""
    some = f"; the map has {rows:,} of them, evenly from the nodes of the lowest rank" if rows < n_images else ""
    some += f", at most {settings.per_node} of each" if some and settings.per_node else ""
    images = f"{one.selection.store.name}: {n_images:,} images{chosen}{some}"
    if n_images < one.n_images:
        images = f"{one.selection.store.name}: a random {n_images:,} of {one.n_images:,} images{chosen}, and counts are of these"
    seed, group = (
        f"; seed {settings.seed}",
        f", within groups of as many images ({settings.group})" if settings.group else "",
    )
    tested = [("Nulls", f"{len(one.maxima)} permutations of the images' taxa{group}{seed}")]
    if one.coalitions is not None:
        searches = f"; null: {len(one.coalition_null)} searches with permuted taxa"
        tested.append(("Coalitions", f"at most {settings.n_coalition} latents{searches}"))
    least = f"fire on at least {settings.min_images} images"
    fires = f", above {settings.threshold:g} of their largest code" if settings.threshold else ""
    shown = f"; the map has the {columns:,} that differ most between nodes" if columns < n_latents else ""
    return [
        ("Images", images),
        ("Ranks", ", ".join(one.tree.ranks)),
        ("Latents", f"{n_latents:,} that {least}{fires}{shown}"),
        ("Code of an image", f"{settings.pool} over its tokens ({one.selection.tokens}), layer {one.selection.layer}"),
        *([("Seed", str(settings.seed))] if settings.rows == (CLUSTER,) else tested),
    ]
