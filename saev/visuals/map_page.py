"""map.html: a heat map of images and latents that is zoomed and searched, and the latents of each node. One file without network.

The codes are one byte each, compressed by zlib. The page draws a frame from their summed-area table: the mean code of any box of rows and
columns is four look-ups, so a frame takes as long at every zoom, whatever ranks are averaged, and no picture of the map is stored.
"""

import base64
import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32, Int64, UInt8

from saev.annotations import titled
from saev.progress import bar
from saev.shards import ActivationStore
from saev.visuals.columns import digits, whole
from saev.visuals.page import write_page
from saev.visuals.pictures import Album, Images

BEST = 5  # latents that are listed for a node
SMALL = 96  # pixels of the photos that are no node's
LEVEL = 0.05  # p up to which a latent is above the null
OPEN = 24  # nodes up to which all are unfolded


@dataclasses.dataclass(frozen=True)
class MapNode:
    """A node's name and path, the rows that are in it (`stop` excluded), and images with the largest codes of its best latent."""

    name: str
    rank: str
    value: str
    depth: int
    first: int
    stop: int
    top: Sequence[tuple[int, float, bool]] = ()  # image of the recording, code, whether it is in the node


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """Codes, the image of the recording in each row, the latent in each column, and the tree above the rows."""

    codes: Float32[np.ndarray, "rows columns"]
    examples: Int64[np.ndarray, " rows"]
    latents: Int64[np.ndarray, " columns"]
    ranks: Sequence[str]
    nodes: Sequence[MapNode]
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)  # of annotated latents
    common: Sequence[str] = ()  # the values that all images have


def write_map_page(
    path: str | Path,
    heat: HeatMap,
    results: pl.DataFrame,
    nodes: pl.DataFrame,
    coalitions: pl.DataFrame,
    *,
    store: ActivationStore,
    facts: Sequence[tuple[str, str]] = (),
    images: Images | None = None,
    credits: Sequence[str] = (),
    files: Mapping[str, str | Path] | None = None,
    title: str = "Map",
) -> Path:
    """Write the page in one step and return its path.

    Args:
        results, nodes, coalitions: the tables of `saev.map_latents`, of one dictionary.
        facts: (name, value) pairs that say what was compared.
        images: the recorded images; None: a page without photos.
    """
    album = Album(images, store)
    if images is not None:
        top = dict.fromkeys(one for node in heat.nodes for one, *_ in node.top)
        small = [example for example in heat.examples.tolist() if example not in top]
        with bar("Photos", len(top) + len(small)) as advance:
            for example in (*top, *small):
                album.add(example, None if example in top else SMALL)
                advance(1)
    return write_page(
        path, "map_page.html.j2", title=title, facts=facts, data=page_data(heat, results, store), codes=packed(quantised(heat.codes)),
        nodes=cards(heat, results, nodes, coalitions, album), unfolded=len(heat.nodes) <= OPEN, album=album,
        credits=credits, files=files, ranks=heat.ranks,
        tested=results["p"].is_not_null().any(), coalitions=len(coalitions) > 0, shape=heat.codes.shape,
    )  # fmt: skip


def quantised(codes: Float32[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns"]:
    """The size of each code as a fraction of the largest of its column, in 255 steps; at least 1 where it is not 0."""
    size = np.abs(codes)
    return np.maximum(np.rint(255 * (size / np.maximum(size.max(0), 1e-30))), size > 0).astype(np.uint8)


def packed(values: UInt8[np.ndarray, "rows columns"]) -> str:
    """The bytes, row by row, compressed by zlib, as base64."""
    return base64.b64encode(zlib.compress(values.tobytes(), 6)).decode()


def page_data(heat: HeatMap, results: pl.DataFrame, store: ActivationStore) -> dict[str, Any]:
    """What the page's script reads beside the codes."""
    best: dict[int, list[Any]] = {}
    for number, row in enumerate(results.iter_rows(named=True)):
        if row["f1"] > best.get(row["latent"], [0, 0.0])[1]:
            best[row["latent"]] = [number, round(row["f1"], 3)]
    largest = np.abs(heat.codes).max(0)
    return {
        "rows": heat.codes.shape[0],
        "columns": heat.codes.shape[1],
        "ranks": list(heat.ranks),
        "common": list(heat.common),
        "nodes": [[node.value, node.depth, node.first, node.stop] for node in heat.nodes],
        "images": heat.examples.tolist(),
        "paths": store.examples["path"].gather(heat.examples).to_list(),
        "latents": heat.latents.tolist(),
        "names": {str(latent): heat.names[latent] for latent in heat.latents.tolist() if latent in heat.names},
        "largest": [float(f"{value:.3g}") for value in largest.tolist()],
        "firing": (heat.codes != 0).sum(0).tolist(),
        "best": {str(latent): value for latent, value in best.items()},
    }


def cards(
    heat: HeatMap, results: pl.DataFrame, nodes: pl.DataFrame, coalitions: pl.DataFrame, album: Album
) -> list[dict[str, Any]]:
    """What the page says of each node."""
    by_node = {row["node"]: row for row in coalitions.iter_rows(named=True)}
    latents = nodes.partition_by("node", as_dict=True, maintain_order=True)
    values: dict[str | None, str] = {node.name: node.value for node in heat.nodes}
    out = []
    for node, row in zip(heat.nodes, results.iter_rows(named=True), strict=True):
        best = [
            {
                "latent": each["latent"],
                "title": titled(each["latent"], heat.names),
                "numbers": [three(each[key]) for key in ("f1", "sufficiency", "necessity", "p")],
                "firing": whole(each["n_firing"]),
                "higher": values.get(each.get("higher_f1_for")),
                "width": round(100 * each["f1"]),
            }
            for each in latents[(node.name,)].head(BEST).iter_rows(named=True)
        ]
        coalition = by_node.get(node.name)
        if coalition is not None:
            coalition = {
                key: value if isinstance(value, str) else three(value)
                for key, value in coalition.items()
                if key in ("coalition", "f1", "first_f1", "null_f1", "p", "sufficiency", "necessity")
            } | {"n_test": coalition["n_test"]}
        out.append(
            {"node": node, "n_images": whole(row["n_images"]), "null": three(row["null_f1"]), "latents": best,
             "above": row["p"] is None or row["p"] <= LEVEL, "same": row.get("same_images_as") is not None,
             "higher": values.get(row.get("higher_f1_for")), "coalition": coalition,
             "latent": titled(row["latent"], heat.names),
             "f1": three(row["f1"]),
             "pictures": [(album.shown(example, digits(code)), inside) for example, code, inside in node.top
                          if example in album.uris]}
        )  # fmt: skip
    return out


def three(value: float | None) -> str:
    """A fraction with three decimals; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"
