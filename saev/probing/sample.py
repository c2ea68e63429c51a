"""A small fixed sample of labelled tokens in memory: some images to fit probes, others to evaluate them.

images with labelled tokens ──draw──▶ two halves ──read once──▶ activations and classes of a limited number of tokens
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from saev.probing.labels import Classes, TokenLabels, classes_of, patch_labels
from saev.shards import ActivationStore, open_stream
from saev.shards.manifest import VOID
from saev.shards.selection import per_image, select

BATCH = 4096  # tokens read at a time
TRAIN = "train"  # instead of a directory: the recording that the SAE is trained on


class Tokens(NamedTuple):
    """Activations in their recorded dtype, and the class of each token."""

    acts: Shaped[Tensor, "tokens d_model"]
    labels: Int64[Tensor, " tokens"]


class Sample(NamedTuple):
    """Two disjoint sets of images; the classes are those that occur in `train`, tokens of others have the number C."""

    train: Tokens
    val: Tokens
    classes: Classes


def labelled_store(root: str, layer: int, tokens: str, d_model: int) -> ActivationStore:
    """A recording with labels of patches, opened. ValueError where it has none, or not this layer, token role or width."""
    try:
        store = ActivationStore(root)
        store.resolve_layer(layer)
        store.role_slice(tokens)
        patch_labels(store)
    except ValueError as error:
        raise ValueError(f"probe.dataset={root}: {error}") from error
    if store.d_model != d_model:
        raise ValueError(
            f"probe.dataset={root} has d_model={store.d_model}, the activations that are trained on {d_model}: record the "
            "labelled images with the same backbone."
        )
    return store


def draw_sample(
    store: ActivationStore,
    layer: int,
    tokens: str,
    among: Int64[np.ndarray, " images"] | None = None,
    n_images: int = 64,
    n_tokens: int = 16384,
    ignore: tuple[int, ...] = (),
    seed: int = 0,
) -> Sample:
    """At most `n_images` images with labelled tokens, half of them for `train`, and at most n_tokens / 2 tokens of each half.

    Args:
        tokens: the roles to take: patches, cls, special or all.
        among: the images to draw from (None: all).
        ignore: labels that are no class; patches without a label (65535) never have one.
        seed: of images and tokens.

    ValueError where the recording has no labels, or too few images with some.
    """
    if n_images < 2 or n_tokens < 2:
        raise ValueError(
            f"images={n_images}, tokens={n_tokens}: must be at least 2: one half is fitted, the other evaluated."
        )
    patch_labels(store)
    stored = store.tokens_per_image(layer)
    every = np.arange(len(stored)) if among is None else among
    ignored, part = (VOID, *ignore), store.role_slice(tokens)
    labelled = per_image(select(stored, every, part, store.labels_for(ignored), ignored), len(stored))[every] > 0
    rng = np.random.default_rng(seed)
    images = rng.permutation(np.sort(every[labelled]))[:n_images]
    if len(images) < 2:
        raise ValueError(
            f"{store.location.root}: {len(images)} of {len(every)} images have labelled tokens (tokens={tokens}), not 2 or more."
        )
    train, val = np.split(images, [(len(images) + 1) // 2])
    classes = classes_of(store, layer, train, tokens, ignore=ignore)
    most = n_tokens // 2
    halves = [_read(store, layer, tokens, half, classes, ignore, most, rng) for half in (train, val)]
    if not bool((halves[1].labels < len(classes)).any()):
        raise ValueError(
            f"{store.location.root}: the {len(val)} images drawn for validation have no class of the training images: take more images."
        )
    return Sample(halves[0], halves[1], classes)


def _read(
    store: ActivationStore,
    layer: int,
    tokens: str,
    images: Int64[np.ndarray, " images"],
    classes: Classes,
    ignore: tuple[int, ...],
    most: int,
    rng: np.random.Generator,
) -> Tokens:
    """At most `most` random tokens of these images, in recorded order."""
    labels = TokenLabels(store, layer, classes, ignore=ignore)
    stream = open_stream(store, layer, BATCH, images, tokens, (VOID, *labels.ignore))
    kept = np.zeros(stream.n_tokens, bool)
    kept[rng.permutation(stream.n_tokens)[:most]] = True
    acts, classes_read, start = [], [], 0
    for batch in stream.batches(0, stream.n_batches):
        here = kept[start : start + len(batch["acts"])]
        acts.append(batch["acts"][here])
        classes_read.append(labels.of(batch["example"][here], batch["token"][here]))
        start += len(here)
    return Tokens(torch.from_numpy(np.concatenate(acts)), torch.from_numpy(np.concatenate(classes_read)))
