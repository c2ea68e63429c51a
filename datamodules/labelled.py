"""The activation stream with labels: training and validation images of one recording or of two.

ActivationDataModule's batches --Labels.of(example, token)--> {acts, labels}
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from datamodules.activations import ActivationDataModule
from saev.probing.labels import Classes, Labels, TokenLabels, check_same_names, classes_of
from saev.shards import ActivationStore, TokenStream
from saev.shards.manifest import VOID
from saev.shards.selection import select
from saev.shards.split import held_out_split
from saev.shards.stream import reader_for

Recorded = str | ActivationStore


class LabelledDataModule(ActivationDataModule):
    """Batches {"acts" [batch, d_model], "labels", "step", "tokens"} of labelled tokens; others are left out.

    Labels are int64 class numbers [batch] (in validation also C: a token of another class), or bool [batch, classes] where a token
    may have several classes.

    Args:
        train: the training recording, as a directory or opened.
        layer, batch_size: as for ActivationDataModule.
        validation: another recording of the same backbone; None: held-out images of `train`.
        images: (training, validation) image numbers; None: all images of both recordings, or a split of one by `val_fraction`.
        labels: (training, validation) labels; None: the recorded patch labels.
        classes: ids of patch labels, in the order of class numbers; None: those that occur in training, ascending.
        ignore_labels: ids that are no class, like 65535 (no label).
        stream: further settings of ActivationDataModule.
    """

    def __init__(
        self,
        train: Recorded,
        layer: int,
        batch_size: int,
        validation: Recorded | None = None,
        images: tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " val"]] | None = None,
        labels: tuple[Labels, Labels] | None = None,
        classes: Sequence[int] | None = None,
        ignore_labels: Sequence[int] = (),
        **stream: Any,
    ):
        super().__init__(location_of(train), layer, batch_size, **stream)
        self.train, self.validation, self.images, self.labels = train, validation, images, labels
        self.class_ids, self.ignored = classes, tuple(ignore_labels or ())
        self.classes: Classes | None = None  # of patch labels

    def setup(self, stage: str | None = None) -> None:
        """Open the recordings, split the images and number the classes. ValueError where they cannot fill a batch."""
        if self.store is not None:
            return
        store = opened(self.train)
        self.val_store = store if self.validation is None else opened(self.validation)
        if self.reader == "auto":
            self.reader = reader_for(store, self.val_store)
        self.layer = store.resolve_layer(self.layer)
        self._check_validation(store)
        train, val = self._split(store) if self.images is None else self.images
        if self.labels is None:
            self.classes = classes_of(store, self.layer, train, self.tokens, self.class_ids, self.ignored)
            check_same_names(self.classes, self.val_store)
            train_labels = val_labels = TokenLabels(store, self.layer, self.classes, ignore=self.ignored)
            if self.val_store is not store:
                val_labels = TokenLabels(self.val_store, self.layer, self.classes, ignore=self.ignored)
            self.labels = train_labels, val_labels
        self.train_examples, self.val_examples = (
            train[self.labels[0].labelled[train]],
            val[self.labels[1].labelled[val]],
        )
        self.ignore_labels = self.labels[0].ignored
        self.store = store
        self.n_steps()

    def _check_validation(self, store: ActivationStore) -> None:
        self.val_store.check_layer(self.layer)
        if self.val_store.d_model != store.d_model:
            raise ValueError(
                f"validation={self.val_store.location.root} has d_model={self.val_store.d_model}, train has {store.d_model}: use "
                "recordings of one backbone."
            )

    def _split(self, store: ActivationStore) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " val"]]:
        if self.val_store is not store:
            return (np.flatnonzero(store.tokens_per_image(self.layer)),
                    np.flatnonzero(self.val_store.tokens_per_image(self.layer)))  # fmt: skip
        return held_out_split(store, self.layer, self.tokens, (), **self.held_out())

    @property
    def n_classes(self) -> int:
        """C."""
        assert self.labels is not None, "setup() comes first"
        return self.labels[0].n_classes

    def class_counts(self) -> tuple[int, Int64[np.ndarray, " classes"]]:
        """(training tokens of an epoch, training tokens of each class)."""
        assert self.store is not None and self.labels is not None, "setup() comes first"
        part = self.store.role_slice(self.tokens)
        stored, labels = self.store.tokens_per_image(self.layer), self.store.labels_for(self.ignore_labels)
        spans = select(stored, self.train_examples, part, labels, self.ignore_labels, self.subset_tokens)
        return spans.n_tokens, self.labels[0].counts(spans)

    def token_stream(self, examples: Int64[np.ndarray, " images"], batch_size: int, **kwargs: Any) -> TokenStream:
        """The stream of one split, without the tokens that its labels leave out."""
        assert self.store is not None and self.labels is not None, "setup() comes first"
        held_out = examples is self.val_examples
        labels = self.labels[held_out]
        validated = (VOID, *labels.ignore) if isinstance(labels, TokenLabels) else ()  # other classes are negatives
        store, ignored = (self.val_store, validated) if held_out else (self.store, labels.ignored)
        return super().token_stream(examples, batch_size, store=store, ignore_labels=ignored, **kwargs)

    def train_dataloader(self) -> "LabelledBatches":  # type: ignore[override]
        """Shuffled batches from the first unconsumed one on, without end."""
        assert self.labels is not None
        return LabelledBatches(super().train_dataloader(), self.labels[0])

    def val_dataloader(self) -> "LabelledBatches":  # type: ignore[override]
        """One pass over the validation batches, in order."""
        assert self.labels is not None
        return LabelledBatches(super().val_dataloader(), self.labels[1])

    def identity(self) -> dict[str, Any]:
        return {
            **super().identity(),
            "validation": self.val_store.manifest.fingerprint,
            "classes": None if self.classes is None else list(self.classes.ids),
            "images": [len(self.train_examples), len(self.val_examples)],
        }


class LabelledBatches:
    """Batches with labels instead of the images and positions of tokens; without a length, like the wrapped batches."""

    def __init__(self, batches: Iterable[dict[str, Any]], labels: Labels):
        self.batches, self.labels = batches, labels

    def __iter__(self) -> Iterator[dict[str, Any]]:
        iterator: Any = iter(self.batches)
        with contextlib.closing(iterator):
            for batch in iterator:
                example, token = batch.pop("example").numpy(), batch.pop("token").numpy()
                batch.pop("label", None)
                batch["labels"] = torch.from_numpy(np.ascontiguousarray(self.labels.of(example, token)))
                yield batch
                del batch  # a batch that only its consumer holds can be recycled


def opened(recorded: Recorded) -> ActivationStore:
    """The opened recording."""
    return recorded if isinstance(recorded, ActivationStore) else ActivationStore(recorded)


def location_of(recorded: Recorded) -> str:
    """The directory or URL of a recording."""
    return recorded if isinstance(recorded, str) else str(recorded.location.root)
