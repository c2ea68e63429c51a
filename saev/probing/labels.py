"""The class of each token as a number from 0 to C - 1: the class of its patch, or the labels of its image.

(example, token) --TokenLabels--> class                        labels of patches, from masks; `Classes` are their ids and names
(example, token) --ImageLabels--> class, or a bool per class   image-level labels, broadcast to all tokens

A labelled token of none of these classes has the number C: it is a negative for each of them. A token without a label has -1.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Int64, Integer, UInt16

from saev.images.tables import shortened
from saev.settings import listed, shown
from saev.shards import ActivationStore
from saev.shards.manifest import VOID
from saev.shards.selection import Spans, per_image, per_label, select


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
        """The class number of each label id; C for ids of other classes, -1 for VOID.

        >>> Classes((7, 3), ("sky", "sea")).numbers(np.array([3, 7, 9, 65535], np.uint16))
        array([ 1,  0,  2, -1])
        """
        table = np.full(VOID + 1, len(self.ids))
        table[list(self.ids)] = np.arange(len(self.ids))
        table[VOID] = -1
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


def ids_of(key: str, labels: Sequence[int | str], names: Mapping[int, str]) -> tuple[int, ...]:
    """The ids of classes that are given by id or by name; ValueError with the closest names for an unknown one."""
    ids = {name: id for id, name in names.items()}
    for label in labels:
        if isinstance(label, str) and label not in ids and not label.isdigit():
            raise ValueError(f"{key}={shown(labels)}: no class is called {label!r}{closest(label, [*ids])}")
    return tuple(ids[label] if label in ids else int(label) for label in labels)  # type: ignore[index]


def closest(name: str, names: Sequence[str]) -> str:
    """The end of a message on an unknown name: those most like it, or the first ones."""
    if not names:
        return ": these classes have no names, give their ids."
    if like := difflib.get_close_matches(name, names, 3, 0.5):
        return f"; did you mean {listed(like)}?"
    return f"; choose among {shortened(sorted(names), 12)}."


def check_same_names(classes: Classes, store: ActivationStore) -> None:
    """ValueError where another recording has another name for one of these classes."""
    names = names_of(store)
    for id, name in zip(classes.ids, classes.names, strict=True):
        if name and names.get(id, name) != name:
            raise ValueError(
                f"class {id} is {name!r} in the training data and {names[id]!r} in {store.location.root}: record both with the "
                "same ids."
            )


LabelValues = Int64[np.ndarray, " batch"] | Bool[np.ndarray, "batch classes"]


@runtime_checkable
class Labels(Protocol):
    """Labels of a recording's tokens; C = n_classes."""

    n_classes: int
    exclusive: bool  # a token has at most one class (class numbers); False: any number of them (a bool per class)

    @property
    def ignored(self) -> tuple[int, ...]: ...  # patch labels that are no class: the stream leaves their tokens out

    @property
    def labelled(self) -> Bool[np.ndarray, " n_examples"]: ...  # images whose tokens may have labels

    def of(self, example: Int[np.ndarray, " batch"], token: Int[np.ndarray, " batch"]) -> LabelValues:
        """The labels of tokens, given their images and their positions among the images' stored tokens."""
        ...

    def counts(self, spans: Spans) -> Int64[np.ndarray, " classes"]:
        """Tokens of each class among those selected."""
        ...

    def left_out(self, spans: Spans) -> dict[str, int]:
        """Selected tokens without a label, and those whose label is ignored."""
        ...


class TokenLabels:
    """The recorded labels of patches: exclusive classes.

    `void_class` is the label that tokens without one count as; None: they are left out, as are those with a label in `ignore`.
    ValueError without recorded labels.
    """

    exclusive = True

    def __init__(
        self,
        store: ActivationStore,
        layer: int,
        classes: Classes,
        void_class: int | None = None,
        ignore: Collection[int] = (),
    ):
        self.store, self.classes, self.ignore = store, classes, tuple(ignore)
        self.labels, self.tokens = patch_labels(store), store.tokens_per_image(layer)
        if void_class is not None:
            self.labels = np.where(self.labels == VOID, np.uint16(void_class), self.labels)
        self.first = np.cumsum(self.tokens) - self.tokens
        self.n_classes = len(classes.ids)

    @property
    def ignored(self) -> tuple[int, ...]:
        present = np.flatnonzero(np.bincount(self.labels, minlength=VOID + 1))
        return tuple(sorted({*map(int, present), VOID} - {*self.classes.ids}))

    @property
    def labelled(self) -> Bool[np.ndarray, " n_examples"]:
        return self.tokens > 0

    def of(self, example: Int[np.ndarray, " batch"], token: Int[np.ndarray, " batch"]) -> Int64[np.ndarray, " batch"]:
        ids = self.labels[self.first[example] + token]
        return np.where(np.isin(ids, self.ignore), -1, self.classes.numbers(ids))

    def counts(self, spans: Spans) -> Int64[np.ndarray, " classes"]:
        return per_label(spans, self.tokens, self.labels)[list(self.classes.ids)]

    def left_out(self, spans: Spans) -> dict[str, int]:
        counts = per_label(spans, self.tokens, self.labels)
        return {"unlabelled": int(counts[VOID]), "ignored": int(counts[list(self.ignore)].sum())}


class ImageLabels:
    """Image-level labels: per image a class number (-1: not known; C: another class), or a bool per class.

    Args:
        table: a row per image of the recording.
        n_classes: C, for a table of class numbers.
        counted: images whose labels are known; None: all, except those with class -1.
    """

    ignored = ()

    def __init__(
        self,
        table: Integer[np.ndarray, " n_examples"] | Bool[np.ndarray, "n_examples classes"],
        n_classes: int | None = None,
        counted: Bool[np.ndarray, " n_examples"] | None = None,
    ):
        self.exclusive = table.ndim == 1
        self.table = table.astype(np.int64) if self.exclusive else table
        self.n_classes = table.shape[1] if not self.exclusive else n_classes or int(table.max()) + 1
        if self.exclusive and int(table.max()) > self.n_classes:
            raise ValueError(
                f"a table of image labels has class {int(table.max())}, classes are 0 to {self.n_classes - 1}"
            )
        self.labelled = np.ones(len(table), bool) if counted is None else counted
        if self.exclusive:
            self.labelled = self.labelled & (self.table >= 0)

    def of(self, example: Int[np.ndarray, " batch"], token: Int[np.ndarray, " batch"]) -> LabelValues:
        return self.table[example]

    def counts(self, spans: Spans) -> Int64[np.ndarray, " classes"]:
        tokens = per_image(spans, len(self.table))
        if not self.exclusive:
            return tokens @ self.table.astype(np.int64)
        known = self.table >= 0
        return np.bincount(self.table[known], tokens[known], self.n_classes + 1)[:-1].astype(np.int64)

    def left_out(self, spans: Spans) -> dict[str, int]:
        return {"unlabelled": int(per_image(spans, len(self.table))[~self.labelled].sum()), "ignored": 0}
