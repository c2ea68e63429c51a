"""The split into training and held-out images: by image, so that no image is on both sides."""

import difflib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from saev.settings import listed
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
    return order[n_val:], first_images(order[:n_val], tokens if selected is None else selected, most_tokens)


def first_images(
    images: Int64[np.ndarray, " images"], tokens: Int64[np.ndarray, " n_examples"], most_tokens: int | None
) -> Int64[np.ndarray, " first"]:
    """The first images that have at most so many tokens in all (at least one image; None: all), in ascending order."""
    if most_tokens is not None:
        images = images[: max(1, int(np.searchsorted(np.cumsum(tokens[images]), most_tokens, "right")))]
    return np.sort(images)


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


def column_of(store: ActivationStore, group: str, key: str = "group") -> list[str]:
    """The group of each image of the recording, from a column of examples.parquet; an image without one is a group of its own."""
    if group not in (columns := store.examples.columns):
        close = difflib.get_close_matches(group, columns, 3, 0.5)
        hint = f"did you mean {listed(close)}?" if close else f"choose among {', '.join(columns)}."
        raise ValueError(f"{key}={group}: {store.name} has no such column; {hint}")
    return [
        f"image {i}" if value in (None, "") else f"={value}" for i, value in enumerate(store.examples[group].to_list())
    ]


def groups_of(
    store: ActivationStore, images: Int64[np.ndarray, " images"], group: str | None
) -> Int64[np.ndarray, " images"]:
    """A number for each of these images, from 0 on: that of its group, of the image itself without `group`."""
    if group is None:
        return np.arange(len(images))
    return np.unique(np.array(column_of(store, group))[images], return_inverse=True)[1].astype(np.int64)


def split_by_column(
    store: ActivationStore, tokens: Int64[np.ndarray, " n_examples"], split: str, key: str = "datamodule.split"
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " val"]]:
    """The images whose value of a column is `train`, and the others, ascending; ValueError where a side has none."""
    side = np.asarray(column_of(store, split, key))
    sides = [np.flatnonzero((tokens > 0) & mask) for mask in (side == "=train", side != "=train")]
    if not (len(sides[0]) and len(sides[1])):
        raise ValueError(
            f"{key}={split}: {len(sides[0])} of {np.count_nonzero(tokens)} images are `train`: both sides need some."
        )
    return sides[0], sides[1]


def held_out_split(
    store: ActivationStore,
    layer: int,
    tokens: str,
    ignore_labels: Collection[int],
    fraction: float,
    most_tokens: int | None,
    by_shard: bool,
    group: str | None = None,
    split: str | None = None,
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " val"]]:
    """`split_images` of a recording as training with these settings splits it, or with `group` (a column of examples.parquet)
    `split_groups`, or with `split` `split_by_column`, whatever `by_shard` is; training images in random order.

    ValueError naming the recording.
    """
    stored, part = store.tokens_per_image(layer), store.role_slice(tokens)
    spans = select(stored, np.arange(len(stored)), part, store.labels_for(ignore_labels), ignore_labels)
    shard, selected = store.shard_of(layer) if by_shard else None, per_image(spans, len(stored))
    try:
        if split is not None:
            train, val = map(np.random.default_rng(0).permutation, split_by_column(store, stored, split))
            return train, first_images(val, selected, most_tokens)
        if group is None:
            return split_images(stored, fraction, most_tokens, shard, selected)
        train, val = map(
            np.random.default_rng(0).permutation,
            split_groups(stored, fraction, column_of(store, group, "datamodule.group")),
        )
        return train, first_images(val, selected, most_tokens)
    except ValueError as error:
        raise ValueError(f"dataset={store.location.root}: {error}") from error
