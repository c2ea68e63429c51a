"""The numbers, maps and image numbers that contrast.html draws, as one JSON value."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from saev.contrasts.cards import Card
from saev.contrasts.groups import Pair
from saev.visuals.pictures import as_bytes, map_bytes, packed

ROWS = 200  # latents of each pair and method in the page's ranking
COLUMNS = (
    "latent", "auroc", "z", "p_family", "q", "fires_a", "fires_b", "mean_a", "mean_b", "difference", "difference_low",
    "difference_high", "d", "ap_a", "ap_b", "f1", "precision", "recall",
)  # fmt: skip


class Shown(NamedTuple):
    """A method whose latents have cards: its title on the page, and its layer and name in the tables."""

    title: str
    layer: int
    method: str


def page_data(
    contrast: pl.DataFrame,
    pairs: Sequence[Pair],
    cards: Mapping[tuple[int, str, int, int], Card],
    methods: Sequence[Shown],
    names: Mapping[tuple[int, str], Mapping[int, str]],
    grids: Mapping[int, tuple[int, int]],
    paths: Mapping[int, str],
    specimens: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """JSON for the page's script, safe inside a <script> element.

    Args:
        contrast: the rows of all latents, pairs and methods.
        cards: by layer, method, number of the pair and latent.
        names: of annotated latents, by layer and method.
        grids, paths: of the images, by their number in the recording.
        specimens: by pair, how many specimens the images of a and of b are of; None: each image is one.
    """
    per_pair = max(Counter((layer, method, pair) for layer, method, pair, _ in cards).values(), default=0)
    used = sorted({int(i) for pair in pairs for group in (pair.a, pair.b, pair.third) for i in group})
    number = {example: i for i, example in enumerate(used)}
    data = {
        "images": [[example, paths[example], *grids.get(example, (0, 0))] for example in used],
        "pairs": [
            {"name": pair.name, "labels": pair.labels, "specimens": specimens and list(specimens[pair.name]),
             "sizes": [len(pair.a), len(pair.b), len(pair.third)],
             "images": [number[int(i)] for group in (pair.a, pair.b, pair.third) for i in group]}
            for pair in pairs
        ],
        "methods": [one.title for one in methods],
        "columns": COLUMNS,
        "rows": [[ranking(contrast, one, pair.name, max(ROWS, per_pair)) for one in methods] for pair in pairs],
        "names": [{str(latent): name for latent, name in names.get((one.layer, one.method), {}).items()} for one in methods],
        "cards": [
            [
                {str(latent): card_data(card) for (layer, method, at, latent), card in cards.items()
                 if (layer, method, at) == (one.layer, one.method, number_of_pair)}
                for one in methods
            ]
            for number_of_pair in range(len(pairs))
        ],
    }  # fmt: skip
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def ranking(contrast: pl.DataFrame, method: Shown, pair: str, most: int) -> list[list[Any]]:
    """The rows of the latents with the largest |z|, in COLUMNS, four significant digits; null where a number is missing."""
    rows = contrast.filter(
        (pl.col("layer") == method.layer) & (pl.col("method") == method.method) & (pl.col("pair") == pair)
    )
    rows = rows.sort(pl.col("z").abs(), "latent", descending=[True, False]).head(most)
    return [[rounded(value) for value in row] for row in rows.select(COLUMNS).iter_rows()]


def card_data(card: Card) -> dict[str, Any]:
    """A card; maps as bytes of 255 code / upper, in base64."""
    means = None
    if card.means is not None:
        largest = max(float(np.abs(one).max()) for one in card.means)
        means = [[packed(as_bytes(one, largest)) for one in card.means], list(card.means[0].shape), rounded(largest)]
    return {
        "codes": [rounded(code) for code in card.codes.tolist()],
        "rows": card.rows,
        "maps": {str(position): map_bytes(one, card.upper) for position, one in card.maps.items() if one.any()},
        "means": means,
        "upper": rounded(card.upper),
    }


def rounded(value: Any) -> Any:
    """A float with four significant digits, None for one that is not finite; other values as they are."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if np.isfinite(value) else None
