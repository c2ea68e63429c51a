"""The patch labels that are classes: their ids and names, by class number 0 to C - 1."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt16

from saev.shards import ActivationStore
from saev.shards.manifest import VOID
from saev.shards.selection import per_label, select


@dataclass(frozen=True)
class Classes:
    """The label ids that are classes, by class number, and their names ("" without one)."""

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self):
        wrong = sorted({id for id in self.ids if not 0 <= id < VOID or self.ids.count(id) > 1})
        if wrong or not self.ids:
            raise ValueError(f"classes={list(self.ids)}: must be at least one id, all different, from 0 to {VOID - 1}.")
        assert len(self.names) == len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def numbers(self, ids: UInt16[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
        """The class number of each label id; -1 for VOID and ids that are no class.

        >>> Classes((7, 3), ("sky", "sea")).numbers(np.array([3, 7, 9, 65535], np.uint16))
        array([ 1,  0, -1, -1])
        """
        table = np.full(VOID + 1, -1)
        table[list(self.ids)] = np.arange(len(self))
        return table[ids]

    def info(self) -> dict[str, Any]:
        """Ids and names as JSON values."""
        return {"ids": list(self.ids), "names": list(self.names)}


def patch_labels(store: ActivationStore) -> UInt16[np.ndarray, " n_tokens"]:
    """The label of each stored token; ValueError where none were recorded."""
    if store.token_labels is None:
        raise ValueError(
            f"dataset={store.location.root} has no patch labels: record an image set with masks, e.g. images=segmentation."
        )
    return store.token_labels


def classes_of(
    store: ActivationStore,
    layer: int,
    examples: Int64[np.ndarray, " images"],
    tokens: str = "patches",
    ids: Sequence[int] | None = None,
    ignore: Collection[int] = (),
) -> Classes:
    """The classes `ids` (None: those that occur among the selected tokens of these images), except `ignore`."""
    if ids is None:
        stored = store.tokens_per_image(layer)
        counts = per_label(select(stored, examples, store.role_slice(tokens)), stored, patch_labels(store))
        ids = [int(id) for id in np.flatnonzero(counts[:VOID])]
    kept = tuple(id for id in ids if id not in ignore)
    if not kept:
        raise ValueError(
            f"dataset={store.location.root}: the {len(examples)} training images have no labelled tokens (tokens={tokens})"
            f"{f' beside ignore_labels={sorted(ignore)}' if ignore else ''}: select others."
        )
    names = names_of(store)
    return Classes(kept, tuple(names.get(id, "") for id in kept))


def names_of(store: ActivationStore) -> dict[int, str]:
    """The recorded names of label ids."""
    return {int(id): name for id, name in ((store.manifest.labels or {}).get("classes") or {}).items()}


def check_same_names(classes: Classes, store: ActivationStore) -> None:
    """ValueError where another recording has another name for one of these classes."""
    names = names_of(store)
    for id, name in zip(classes.ids, classes.names, strict=True):
        if name and names.get(id, name) != name:
            raise ValueError(
                f"class {id} is {name!r} in the training data and {names[id]!r} in {store.location.root}: record both with the "
                "same ids."
            )
