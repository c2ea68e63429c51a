"""Traits from the recorded labels of patches: presence of a class in an image, or the class of a token."""

import numpy as np
from jaxtyping import Int64

from saev.probing.labels import Classes, TokenLabels, ids_of, names_of, patch_labels
from saev.settings import shown
from saev.shards import ActivationStore
from saev.shards.manifest import VOID
from saev.shards.selection import BLOCK, positions, select
from saev.trait_evaluation.sources.settings import Masks, Presence
from saev.trait_evaluation.table import TokenTraits, TraitTable


def table(settings: Presence, store: ActivationStore, examples: Int64[np.ndarray, " images"]) -> TraitTable:
    """Whether each class is in each image."""
    layer = store.layers[0]  # labels are the same in all layers
    labels = token_labels(store, layer, settings.classes, settings.ignore_labels)
    images, row = np.unique(examples, return_inverse=True)
    n = labels.n_classes
    counts = np.zeros((len(images), n + 1), np.int64)  # the last column: other classes
    for at in range(0, len(images), BLOCK):
        block = counts[at : at + BLOCK]
        spans = select(labels.tokens, images[at : at + BLOCK], store.role_slice("patches"))
        span, token = positions(spans)
        number = labels.of(spans.example[span], token)
        cell = np.searchsorted(images[at : at + BLOCK], spans.example[span]) * (n + 1) + number
        block += np.bincount(cell[number >= 0], minlength=block.size).reshape(block.shape)
    labelled = counts.sum(1, keepdims=True)
    counts = counts[:, :n]
    values = (counts > 0) & (counts / np.maximum(labelled, 1) >= settings.min_fraction)
    return TraitTable(trait_names(labels.classes), np.where(labelled > 0, values, -1).astype(np.int8)[row])


def token_table(
    settings: Masks, store: ActivationStore, examples: Int64[np.ndarray, " images"], layer: int
) -> TokenTraits:
    """The labelled patches of the images by image and position, and the class of each."""
    labels = token_labels(store, layer, settings.classes, settings.ignore_labels)
    spans = select(labels.tokens, examples, store.role_slice("patches"))
    span, token = positions(spans)
    number = labels.of(example := spans.example[span], token)
    kept = number >= 0
    values = np.zeros((int(kept.sum()), labels.n_classes), np.int8)
    unit = np.flatnonzero(number[kept] < labels.n_classes)
    values[unit, number[kept][unit]] = 1
    return TokenTraits(example[kept], token[kept], TraitTable(trait_names(labels.classes), values))


def token_labels(
    store: ActivationStore, layer: int, classes: tuple[int | str, ...] | None, ignore: tuple[int | str, ...]
) -> TokenLabels:
    """The labels of the recording's tokens; ValueError without labels, without a class, and for unknown names."""
    names = names_of(store)
    left_out = ids_of("traits.ignore_labels", ignore, names)
    if classes is None:
        ids = [int(id) for id in np.flatnonzero(np.bincount(patch_labels(store), minlength=VOID)[:VOID])]
    else:
        ids = [*dict.fromkeys(ids_of("traits.classes", classes, names))]
    ids = [id for id in ids if id not in left_out]
    if not ids:
        raise ValueError(
            f"traits.ignore_labels={shown(ignore)} leaves no class of {store.name}: ignore fewer, or give traits.classes."
        )
    return TokenLabels(store, layer, Classes(tuple(ids), tuple(names.get(id, "") for id in ids)), ignore=left_out)


def trait_names(classes: Classes) -> tuple[str, ...]:
    """The classes' names, with the id where a name is missing or that of several classes.

    >>> trait_names(Classes((3, 5, 9, 7), ("sky", "", "sea", "sea")))
    ('sky', 'class 5', 'sea (9)', 'sea (7)')
    """
    names = [name or f"class {id}" for id, name in zip(classes.ids, classes.names, strict=True)]
    return tuple(f"{n} ({id})" if names.count(n) > 1 else n for id, n in zip(classes.ids, names, strict=True))
