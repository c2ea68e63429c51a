"""The class of each token as a number from 0 to C - 1: the class of its patch, or the labels of its image.

(example, token) --TokenLabels--> class, -1 for none           labels of patches, from masks
(example, token) --ImageLabels--> class, or a bool per class   image-level labels, broadcast to all tokens
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Int64, Integer

from saev.probing.data.classes import Classes, patch_labels
from saev.shards import ActivationStore
from saev.shards.manifest import VOID
from saev.shards.selection import Spans, per_image, per_label

LabelValues = Int64[np.ndarray, " batch"] | Bool[np.ndarray, "batch classes"]


@runtime_checkable
class Labels(Protocol):
    """Labels of a recording's tokens."""

    @property
    def n_classes(self) -> int:
        """C."""
        ...

    @property
    def exclusive(self) -> bool:
        """Whether a token has at most one class (class numbers), or any number of them (a bool per class)."""
        ...

    @property
    def ignored(self) -> tuple[int, ...]:
        """Patch labels that are no class: the stream leaves their tokens out."""
        ...

    @property
    def labelled(self) -> Bool[np.ndarray, " n_examples"]:
        """Images whose tokens may have labels."""
        ...

    def of(self, example: Int[np.ndarray, " batch"], token: Int[np.ndarray, " batch"]) -> LabelValues:
        """The labels of tokens, given their images and their positions among the images' stored tokens."""
        ...

    def counts(self, runs: Spans) -> Int64[np.ndarray, " classes"]:
        """Tokens of each class among those selected."""
        ...


class TokenLabels:
    """The recorded labels of patches: exclusive classes.

    `void_class` is the label that tokens without one count as; None: they are left out. ValueError without recorded labels.
    """

    exclusive = True

    def __init__(self, store: ActivationStore, layer: int, classes: Classes, void_class: int | None = None):
        self.store, self.classes = store, classes
        self.labels, self.tokens = patch_labels(store), store.tokens_per_image(layer)
        if void_class is not None:
            self.labels = np.where(self.labels == VOID, np.uint16(void_class), self.labels)
        self.first = np.cumsum(self.tokens) - self.tokens

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def ignored(self) -> tuple[int, ...]:
        present = np.flatnonzero(np.bincount(self.labels, minlength=VOID + 1))
        return tuple(sorted({*map(int, present), VOID} - {*self.classes.ids}))

    @property
    def labelled(self) -> Bool[np.ndarray, " n_examples"]:
        return self.tokens > 0

    def of(self, example: Int[np.ndarray, " batch"], token: Int[np.ndarray, " batch"]) -> Int64[np.ndarray, " batch"]:
        return self.classes.numbers(self.labels[self.first[example] + token])

    def counts(self, runs: Spans) -> Int64[np.ndarray, " classes"]:
        return per_label(runs, self.tokens, self.labels)[list(self.classes.ids)]


class ImageLabels:
    """Image-level labels: per image a class number (-1: none), or a bool per class.

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
        if self.exclusive and int(table.max()) >= self.n_classes:
            raise ValueError(
                f"a table of image labels has class {int(table.max())}, classes are 0 to {self.n_classes - 1}"
            )
        self.labelled = np.ones(len(table), bool) if counted is None else counted
        if self.exclusive:
            self.labelled = self.labelled & (self.table >= 0)

    def of(self, example: Int[np.ndarray, " batch"], token: Int[np.ndarray, " batch"]) -> LabelValues:
        return self.table[example]

    def counts(self, runs: Spans) -> Int64[np.ndarray, " classes"]:
        tokens = per_image(runs, len(self.table))
        if not self.exclusive:
            return tokens @ self.table.astype(np.int64)
        known = self.table >= 0
        return np.bincount(self.table[known], tokens[known], self.n_classes).astype(np.int64)
