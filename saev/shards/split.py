"""The split into training and held-out images: by image, so that no image is on both sides."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from saev.shards.reader import ActivationStore
from saev.shards.selection import per_image, select


def split_images(
    tokens: Int64[np.ndarray, " n_examples"],
    fraction: float,
    most_tokens: int | None = None,
    shard: Int64[np.ndarray, " n_examples"] | None = None,
    selected: Int64[np.ndarray, " n_examples"] | None = None,
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " val"]]:
    """Disjoint training and held-out image numbers, always the same ones (seed 0).

    Args:
        tokens: stored tokens of each image; images without any are on neither side.
        fraction: fraction of the images to hold out, at least one image.
        most_tokens: keep held-out images with at most so many tokens in all (at least one image).
        shard: hold out whole shards as far as the fraction allows, so that reading one side in order skips the other.
        selected: tokens of each image that count for `most_tokens` (None: all).

    Training images come in random order, held-out ones in ascending order. Raises ValueError where nothing is left.
    """
    readable, rng = np.flatnonzero(tokens), np.random.default_rng(0)
    n_val = max(1, round(fraction * len(readable)))
    if n_val >= len(readable):
        raise ValueError(f"{len(readable)} readable images are too few to hold one out: record more.")
    if shard is None:
        order = rng.permutation(readable)
    else:
        rank = rng.permutation(shard.max() + 1)
        order = readable[np.argsort(rank[shard[readable]], kind="stable")]
    val = order[:n_val]
    if most_tokens is not None:
        counts = (tokens if selected is None else selected)[val]
        val = val[: max(1, int(np.searchsorted(np.cumsum(counts), most_tokens, "right")))]
    return order[n_val:], np.sort(val)


def split_groups(
    tokens: Int64[np.ndarray, " n_examples"], fraction: float, group: Sequence[Any]
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " val"]]:
    """As `split_images`, with all images of a group (`group[i]` of image i) on one side: whole groups in random order are held out
    until `fraction` of the images are. ValueError for a single group.

    >>> train, val = split_groups(np.array([4, 4, 0, 4, 4]), 0.5, ["a", "a", "a", "b", "b"])
    >>> sorted([train.tolist(), val.tolist()])
    [[0, 1], [3, 4]]
    """
    readable = np.flatnonzero(tokens)
    number = np.unique([str(group[i]) for i in readable.tolist()], return_inverse=True)[1]
    sizes = np.bincount(number)
    if len(sizes) < 2:
        raise ValueError("all images are of one group: there is none to hold out.")
    order = np.random.default_rng(0).permutation(len(sizes))
    n = int(np.searchsorted(np.cumsum(sizes[order]), fraction * len(readable))) + 1
    held_out = np.isin(number, order[: min(n, len(sizes) - 1)])
    return readable[~held_out], readable[held_out]


def held_out_split(
    store: ActivationStore,
    layer: int,
    tokens: str,
    ignore_labels: Collection[int],
    fraction: float,
    most_tokens: int | None,
    by_shard: bool,
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " val"]]:
    """`split_images` of a recording as training with these settings splits it; ValueError naming the recording."""
    stored, part = store.tokens_per_image(layer), store.role_slice(tokens)
    spans = select(stored, np.arange(len(stored)), part, store.labels_for(ignore_labels), ignore_labels)
    shard = store.shard_of(layer) if by_shard else None
    try:
        return split_images(stored, fraction, most_tokens, shard, per_image(spans, len(stored)))
    except ValueError as error:
        raise ValueError(f"dataset={store.location.root}: {error}") from error
