"""Held-out images: drawn by image, so that no picture is on both sides."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Int64

from saev.shards.reader import ActivationStore
from saev.shards.selection import per_image, select


def split_images(
    tokens: Int64[np.ndarray, " n_examples"],
    share: float,
    most_tokens: int | None = None,
    shard: Int64[np.ndarray, " n_examples"] | None = None,
    selected: Int64[np.ndarray, " n_examples"] | None = None,
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " val"]]:
    """Disjoint training and held-out image numbers, always the same ones (drawn with a seed of 0).

    Args:
        tokens: stored tokens of each image; images without any are on neither side.
        share: fraction of the images to hold out, at least one.
        most_tokens: keep at most so many tokens' worth of the held-out images (at least one image).
        shard: hold out whole shards as far as the share allows, so that reading one side in order skips the other.
        selected: what counts as tokens for that: those of each image that are looked at (None: all).

    Training images come in random order, held-out ones in ascending order. Raises ValueError where nothing is left.
    """
    readable, rng = np.flatnonzero(tokens), np.random.default_rng(0)
    n_val = max(1, round(share * len(readable)))
    if n_val >= len(readable):
        raise ValueError(f"{len(readable)} readable images are too few to hold some out: record more.")
    if shard is None:
        order = rng.permutation(readable)
    else:
        place = rng.permutation(shard.max() + 1)
        order = readable[np.argsort(place[shard[readable]], kind="stable")]
    val = order[:n_val]
    if most_tokens is not None:
        counts = (tokens if selected is None else selected)[val]
        val = val[: max(1, int(np.searchsorted(np.cumsum(counts), most_tokens, "right")))]
    return order[n_val:], np.sort(val)


def held_out_split(
    store: ActivationStore,
    layer: int,
    tokens: str,
    ignore_labels: Collection[int],
    share: float,
    most_tokens: int | None,
    by_shard: bool,
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " val"]]:
    """`split_images` of a dataset as a training run with these settings splits it; ValueError naming the dataset."""
    stored, part = store.tokens_per_image(layer), store.role_slice(tokens)
    runs = select(stored, np.arange(len(stored)), part, store.labels_for(ignore_labels), ignore_labels)
    shard = store.shard_of(layer) if by_shard else None
    try:
        return split_images(stored, share, most_tokens, shard, per_image(runs, len(stored)))
    except ValueError as error:
        raise ValueError(f"dataset={store.location.root}: {error}") from error
