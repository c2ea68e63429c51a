"""What the page shows of one latent and pair: which images, its codes and maps on them, and its mean maps."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from saev.contrasts.groups import Pair
from saev.contrasts.maps import Align, LatentMaps, Map, commonest, mean_map

FILM = 36  # images of a film strip


class Card(NamedTuple):
    """One latent and pair. Positions count the images of a, then of b, then of the third group."""

    codes: Float32[np.ndarray, " positions"]
    rows: Mapping[str, Sequence[int]]  # positions to show, by what they show: a_high, a_low, b_high, b_low, third, film
    maps: Mapping[int, Map]  # by position, of those that are shown
    means: tuple[Map, Map] | None  # over group a and over b; None where the codes have no maps
    upper: float  # of the maps' colours: the largest code on an image that is shown


def card_of(
    codes: Float32[np.ndarray, " positions"],
    pair: Pair,
    latent: int,
    maps: LatentMaps | None,
    n: int = 8,
    align: Align = "none",
) -> Card:
    """The card of a latent, of which `codes` are the pooled codes of the pair's images."""
    examples = np.concatenate([pair.a, pair.b, pair.third])
    rows = shown(codes, len(pair.a), len(pair.b), n)
    if maps is None:
        return Card(codes, rows, {}, None, 0.0)
    positions = sorted({position for row in rows.values() for position in row})
    of_shown = dict(zip(positions, maps.of(latent, examples[positions].tolist()), strict=True))
    upper = max((float(one.max()) for one in of_shown.values()), default=0.0)
    grid = commonest([maps.grid(example) for example in np.concatenate([pair.a, pair.b]).tolist()])
    a, b = (mean_map(maps.of(latent, group.tolist()), grid, align) for group in (pair.a, pair.b))
    return Card(codes, rows, of_shown, (a, b), upper)


def shown(codes: Float32[np.ndarray, " positions"], n_a: int, n_b: int, n: int) -> dict[str, list[int]]:
    """Positions of the images with the highest and the lowest codes of each group, and of all images in the order of their codes.

    high: at most n, descending; low: at most n others, ascending. film: at most FILM, evenly from the order of all images,
    the third group among them.
    """
    out: dict[str, list[int]] = {}
    for name, start, stop in (("a", 0, n_a), ("b", n_a, n_a + n_b)):
        order = start + descending(codes[start:stop])
        out[f"{name}_high"] = order[:n].tolist()
        out[f"{name}_low"] = order[max(n, len(order) - n) :][::-1].tolist()
    out["third"] = (n_a + n_b + descending(codes[n_a + n_b :]))[:n].tolist()
    order = descending(codes)
    out["film"] = order[np.unique(np.linspace(0, len(order) - 1, min(FILM, len(order))).round().astype(int))].tolist()
    return out


def descending(values: Float32[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The order of descending values; of equal ones the first comes first."""
    return np.argsort(-values, kind="stable").astype(np.int64)
