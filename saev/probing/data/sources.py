"""Codes with labels, batch by batch: encoded while they are read, or read from disk.

Live     TokenStream ──batch──▶ sparse_codes, per dictionary ─┐
Stored   CodeStore   ──rows───▶ codes of one dictionary ──────┴──▶ Batch(codes, example, token)

Split.facts(example, token) ──▶ labels, whether they are known, and the image's number
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from saev.codes.pairs import sparse_codes
from saev.codes.store import CodeStore
from saev.dictionary import Dictionary
from saev.ops.sparse import SparseCodes
from saev.probing.data.labels import Labels
from saev.shards import ActivationStore, TokenStream, open_stream


class Facts(NamedTuple):
    """What is known of a batch's tokens."""

    labels: Int64[Tensor, " tokens"] | Bool[Tensor, "tokens classes"]
    counted: Bool[Tensor, " tokens"]
    image: Int64[Tensor, " tokens"]  # its number in the split


@dataclass(frozen=True)
class Split:
    """Training or validation: images of a recording, and their labels; `variants` are the labels and the nulls' ones."""

    name: str
    store: ActivationStore
    layer: int
    images: Int64[np.ndarray, " images"]
    tokens: str
    variants: Mapping[str, Labels]

    @cached_property
    def number(self) -> Int64[np.ndarray, " n_examples"]:
        """Of each image of the recording its number in the split; -1 for others."""
        number = np.full(self.store.manifest.n_examples, -1)
        number[self.images] = np.arange(len(self.images))
        return number

    def facts(self, variant: str, example: Int[np.ndarray, " tokens"], token: Int[np.ndarray, " tokens"]) -> Facts:
        """Labels of tokens; those of other images, and void ones, do not count."""
        labels, image = self.variants[variant], self.number[example]
        found = labels.of(example, token)
        counted = (image >= 0) & labels.labelled[example]
        if found.ndim == 1:
            counted &= found >= 0
        return Facts(*(torch.from_numpy(np.ascontiguousarray(each)) for each in (found, counted, image)))


class Batch(NamedTuple):
    """Codes of some tokens by dictionary, and whose they are."""

    codes: Mapping[str, SparseCodes]
    example: Int[np.ndarray, " tokens"]
    token: Int[np.ndarray, " tokens"]


@runtime_checkable
class Source(Protocol):
    """Where codes come from."""

    names: tuple[str, ...]

    def n_batches(self, split: Split) -> int:
        """Batches of a split."""
        ...

    def batches(self, split: Split, start: int) -> Iterator[Batch]:
        """Those from `start` on, always the same ones."""
        ...


class Live:
    """Dictionaries that encode activations as they are read: one read for all of them."""

    def __init__(self, members: Mapping[str, Dictionary], batch_size: int, most: int | None):
        self.names, self.members, self.batch_size, self.most = tuple(members), members, batch_size, most

    def n_batches(self, split: Split) -> int:
        return self._stream(split).n_batches

    @torch.inference_mode()
    def batches(self, split: Split, start: int) -> Iterator[Batch]:
        stream = self._stream(split)
        device = next(iter(self.members.values())).atoms.device
        for batch in stream.batches(start, stream.n_batches):
            x = torch.from_numpy(batch["acts"]).to(device).float()
            codes = {name: sparse_codes(member, x, self.most) for name, member in self.members.items()}
            yield Batch(codes, batch["example"], batch["token"])

    def _stream(self, split: Split) -> TokenStream:
        return open_stream(split.store, split.layer, self.batch_size, split.images, split.tokens)


class Stored:
    """One dictionary's codes on disk. ValueError where they are of other activations than the split's."""

    def __init__(self, name: str, codes: CodeStore, batch_size: int, device: str):
        self.names, self.codes, self.batch_size, self.device = (name,), codes, batch_size, device

    def check(self, split: Split) -> None:
        """ValueError where these codes are not of the split's activations, or leave out images of it."""
        made, wanted = self.codes.manifest, split.store.manifest.fingerprint
        if made.dataset["fingerprint"] != wanted or made.layer != split.layer or made.tokens != split.tokens:
            raise ValueError(
                f"{self.codes.root} has codes of {made.dataset['name']}, layer {made.layer}, tokens={made.tokens}; the "
                f"{split.name} tokens are of {split.store.name}, layer {split.layer}, tokens={split.tokens}: encode these."
            )
        absent = np.setdiff1d(split.images, self.codes.runs.example)
        if len(absent):
            raise ValueError(
                f"{self.codes.root} has no codes of {len(absent)} of the {split.name} images: encode with examples=all."
            )

    def n_batches(self, split: Split) -> int:
        return -(-len(self.codes) // self.batch_size)

    def batches(self, split: Split, start: int) -> Iterator[Batch]:
        for first in range(start * self.batch_size, len(self.codes), self.batch_size):
            last = min(first + self.batch_size, len(self.codes))
            codes = SparseCodes(*(part.to(self.device) for part in self.codes.rows(first, last).torch()))
            yield Batch({self.names[0]: codes}, *self.codes.tokens(first, last))


def active(source: Source, split: Split) -> dict[str, float]:
    """Codes of a token that are not 0, by dictionary, in the first batch; 1 at least."""
    first = next(iter(source.batches(split, 0)))
    return {name: max(1.0, len(codes.latents) / max(1, len(codes.offsets) - 1)) for name, codes in first.codes.items()}
