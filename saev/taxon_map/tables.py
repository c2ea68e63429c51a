"""The tables of one dictionary's map."""

import logging
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64

from saev.annotations import with_names
from saev.images.tables import shortened
from saev.taxon_map.latent_map import LatentMap
from saev.taxon_map.settings import CLUSTER
from saev.taxon_map.statistics import family_wise_p, tail

log = logging.getLogger(__name__)
BEST = 20  # latents of a node that are listed whatever the null says
FEWEST = 2  # images of a node in each half, for a coalition


def tables_of(one: LatentMap) -> dict[str, pl.DataFrame]:
    """results, nodes, coalitions, images, latents."""
    nodes, coalitions = nodes_table(one), coalitions_table(one)
    return {
        "results": results_table(nodes, coalitions), "nodes": nodes, "coalitions": coalitions,
        "images": images_table(one), "latents": latents_table(one),
    }  # fmt: skip


def where(one: LatentMap) -> dict[str, Any]:
    """The columns that say what was compared."""
    return {"member": one.name, "dataset": one.selection.store.name, "layer": one.selection.layer}


def named(table: pl.DataFrame, one: LatentMap) -> pl.DataFrame:
    """The table with the names of latents, and the columns of `where` before the others."""
    table = with_names(table, one.names) if "latent" in table.columns else table
    return table.select(
        *(pl.lit(value, pl.Int64 if key == "layer" else None).alias(key) for key, value in where(one).items()), pl.all()
    )


def nullable(values: Float64[np.ndarray, " n"]) -> pl.Series:
    """A column whose NaN are null."""
    return pl.Series(values, dtype=pl.Float64).fill_nan(None)


def nodes_table(one: LatentMap) -> pl.DataFrame:
    """A row per node and latent: the `BEST` latents of each node, and those above the 95th percentile of the null's largest F1.

    sufficiency, necessity, f1; p_hypergeometric (of one pair alone); null_f1, the 95th percentile; p, family-wise over latents.
    """
    f1, nodes = one.counts.f1(), one.tree.nodes
    above = np.quantile(one.maxima, 0.95, axis=0) if len(one.maxima) else np.full(len(nodes), np.nan)
    order = np.argsort(-f1, axis=0, kind="stable")
    n_kept = np.maximum((f1 > above).sum(0), min(BEST, len(f1)))
    latent = np.concatenate([order[:n, k] for k, n in enumerate(n_kept.tolist())])
    node = np.repeat(np.arange(len(nodes)), n_kept)
    clustered = one.settings.rows == (CLUSTER,)
    p = tail(one.counts, len(one.tree.leaf), latent, node)
    table = pl.DataFrame(
        {
            **of_nodes(one, node),
            "latent": one.latents[latent],
            "n_firing": one.counts.firing[latent],
            "n_both": one.counts.hits[latent, node],
            "sufficiency": one.counts.sufficiency()[latent, node],
            "necessity": one.counts.necessity()[latent, node],
            "f1": f1[latent, node],
            "p_hypergeometric": nullable(np.full(len(p), np.nan) if clustered else p),
            "null_f1": nullable(above[node]),
            "p": nullable(family_wise_p(f1[latent, node], node, one.maxima)),
            "higher_f1_for": pl.Series(higher(one, f1, latent, node), dtype=pl.String),
        }
    )
    return named(table, one)


def higher(
    one: LatentMap,
    f1: Float64[np.ndarray, "latents nodes"],
    latent: Int64[np.ndarray, " pairs"],
    node: Int64[np.ndarray, " pairs"],
) -> list[str | None]:
    """For (latent, node) pairs the node above or below with the highest F1 of this latent; None: no such node has a higher one."""
    contains = one.tree.contains()
    related = np.where((contains | contains.T)[node], f1[latent], -1.0)
    best = related.argmax(1)
    above = related[np.arange(len(best)), best] > f1[latent, node]
    return [one.tree.nodes[k].name if more else None for k, more in zip(best.tolist(), above.tolist(), strict=True)]


def of_nodes(one: LatentMap, node: Int64[np.ndarray, " n"]) -> dict[str, Any]:
    """The columns that say which node a row is of; `same_images_as`: its parent, where that has no other images."""
    nodes, parents = [one.tree.nodes[k] for k in node.tolist()], one.tree.parents()
    same = [
        parent.name if (parent := parents[k]) and parent.n_images == one.tree.nodes[k].n_images else None
        for k in node.tolist()
    ]
    return {
        "node": [each.name for each in nodes],
        "rank": [each.rank for each in nodes],
        "value": [each.value for each in nodes],
        "depth": [each.depth for each in nodes],
        "n_images": [each.n_images for each in nodes],
        "same_images_as": pl.Series(same, dtype=pl.String),
    }


def coalitions_table(one: LatentMap) -> pl.DataFrame:
    """A row per node with at least `FEWEST` images in each half and a latent that fires on those of the first: the coalition, and
    how it does on the half it was not chosen on."""
    columns: dict[str, Any] = {
        "node": pl.String,
        "rank": pl.String,
        "value": pl.String,
        "depth": pl.Int64,
        "n_images": pl.Int64,
        "same_images_as": pl.String,
        "coalition": pl.String,
        "latents": pl.List(pl.Int64),
    }
    if one.coalitions is None:
        return named(pl.DataFrame(schema=columns), one)
    judged = one.coalitions
    sizes = np.array([node.n_images for node in one.tree.nodes])
    large = (judged.size >= FEWEST) & (sizes - judged.size >= FEWEST)
    kept = np.flatnonzero(large & (judged.search.f1 > 0))
    for why, without in (
        (f"fewer than {FEWEST} images in a half", ~large),
        ("no latent fires on the images it would be chosen on", large & (judged.search.f1 == 0)),
    ):
        if without.any():
            names = shortened(node.name for node, no in zip(one.tree.nodes, without.tolist(), strict=True) if no)
            log.warning("%s: no coalition: %s: %s", one.name, why, names)
    names, null = one.latents[one.candidates], one.coalition_null
    p = (1 + (null >= judged.f1).sum(0)) / (1 + len(null)) if len(null) else np.full(len(sizes), np.nan)
    above = np.quantile(null, 0.95, axis=0) if len(null) else np.full(len(sizes), np.nan)
    chosen = [[int(names[latent]) for latent in judged.search.latents[k] if latent >= 0] for k in kept.tolist()]
    table = pl.DataFrame(
        {
            **of_nodes(one, kept),
            "coalition": [judged.search.text(k, names) for k in kept.tolist()],
            "latents": pl.Series(chosen, dtype=pl.List(pl.Int64)),
            "n_test": judged.size[kept].astype(np.int64),
            "sufficiency": (judged.hits / np.maximum(judged.firing, 1))[kept],
            "necessity": (judged.hits / np.maximum(judged.size, 1))[kept],
            "f1": judged.f1[kept],
            "first_f1": judged.single[kept],
            "train_f1": judged.search.f1[kept].astype(np.float64),
            "null_f1": nullable(above[kept]),
            "p": nullable(p[kept]),
        },
        schema_overrides=columns,
    )
    return named(table, one)


def results_table(nodes: pl.DataFrame, coalitions: pl.DataFrame) -> pl.DataFrame:
    """A row per node: its best latent, and its coalition."""
    best = nodes.unique("node", keep="first", maintain_order=True)
    kept = [
        name for name in ("sufficiency", "necessity", "f1", "first_f1", "null_f1", "p") if name in coalitions.columns
    ]
    return best.join(
        coalitions.select("node", "coalition", *(pl.col(name).alias(f"coalition_{name}") for name in kept)),
        on="node", how="left", maintain_order="left",
    )  # fmt: skip


def images_table(one: LatentMap) -> pl.DataFrame:
    """A row per image, by leaf: its number in the recording, path, values of the ranks, and its row in the heat map (null: not in it)."""
    tree, images = one.tree, one.selection.images
    row = np.full(len(images), -1)
    row[one.rows] = np.arange(len(one.rows))
    order = np.lexsort((np.where(row < 0, len(row), row), tree.leaf))
    values = {rank: [path[k] if k < len(path) else None for path in tree.paths] for k, rank in enumerate(tree.ranks)}
    table = pl.DataFrame(
        {
            "row": pl.Series(row[order]).replace(-1, None),
            "example": images[order],
            "path": one.selection.store.examples["path"].gather(images[order]),
            **{
                rank: pl.Series([of_leaf[leaf] for leaf in tree.leaf[order].tolist()], dtype=pl.String)
                for rank, of_leaf in values.items()
            },
        }
    )
    return named(table, one)


def latents_table(one: LatentMap) -> pl.DataFrame:
    """A row per latent that fires on `min_images`: its column in the heat map (null: not in it), and its firing."""
    column = np.full(len(one.latents), -1)
    column[one.columns] = np.arange(len(one.columns))
    order = np.lexsort((one.latents, np.where(column < 0, len(column), column)))
    table = pl.DataFrame(
        {
            "column": pl.Series(column[order]).replace(-1, None),
            "latent": one.latents[order],
            "n_firing": one.counts.firing[order],
            "largest": abs(one.codes).max(0).toarray().ravel()[order].astype(np.float64),
            "explained": one.explained[order],
        }
    )
    return named(table, one)
