"""Held-out images: drawn by image, so that no picture is on both sides."""

import numpy as np
from jaxtyping import Int64


def split_images(
    tokens: Int64[np.ndarray, " n_examples"],
    share: float,
    most_tokens: int | None = None,
    shard: Int64[np.ndarray, " n_examples"] | None = None,
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " val"]]:
    """Disjoint training and held-out image numbers, always the same ones (drawn with a seed of 0).

    Args:
        tokens: stored tokens of each image; images without any are on neither side.
        share: share of the images to hold out, at least one.
        most_tokens: keep at most so many tokens' worth of the held-out images (at least one image).
        shard: hold out whole shards as far as the share allows, so that reading one side in order skips the other.

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
        val = val[: max(1, int(np.searchsorted(np.cumsum(tokens[val]), most_tokens, "right")))]
    return order[n_val:], np.sort(val)
