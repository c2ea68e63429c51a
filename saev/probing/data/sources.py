"""Codes with labels, batch by batch: encoded while activations are read, or read from disk.

Encoder       TokenStream ──batch──▶ sparse_codes, per dictionary ─┐
CodesOnDisk   CodeStore   ──rows───▶ codes of one dictionary ──────┴──▶ CodeBatch(codes, example, token)

Split.token_info(variant, example, token) ──▶ labels, whether the token counts, and the image's number
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


class TokenInfo(NamedTuple):
    """Labels and images of a batch's tokens."""

    labels: Int64[Tensor, " tokens"] | Bool[Tensor, "tokens classes"]
    counted: Bool[Tensor, " tokens"]  # of an image of the split, and labelled
    image: Int64[Tensor, " tokens"]  # its number in the split


@dataclass(frozen=True)
class Split:
    """Training or validation: images of a recording and, by name, the variants of their labels: the true ones and nulls."""

    name: str
    store: ActivationStore
    layer: int
    images: Int64[np.ndarray, " images"]
    tokens: str
    variants: Mapping[str, Labels]

    @cached_property
    def number(self) -> Int64[np.ndarray, " n_examples"]:
        """The number in the split of each image of the recording; -1 for images outside it."""
        number = np.full(self.store.manifest.n_examples, -1)
        number[self.images] = np.arange(len(self.images))
        return number

    def token_info(
        self, variant: str, example: Int[np.ndarray, " tokens"], token: Int[np.ndarray, " tokens"]
    ) -> TokenInfo:
        """Labels of tokens, whether they count, and the numbers of their images in the split."""
        labels, image = self.variants[variant], self.number[example]
        values = labels.of(example, token)
        counted = (image >= 0) & labels.labelled[example]
        if values.ndim == 1:
            counted &= values >= 0
        return TokenInfo(*(torch.from_numpy(np.ascontiguousarray(column)) for column in (values, counted, image)))


class CodeBatch(NamedTuple):
    """Codes of a batch of tokens by dictionary, and the images and positions of the tokens."""

    codes: Mapping[str, SparseCodes]
    example: Int[np.ndarray, " tokens"]
    token: Int[np.ndarray, " tokens"]


@runtime_checkable
class Source(Protocol):
    """A reader of codes; `names` are its dictionaries."""

    names: tuple[str, ...]

    def n_batches(self, split: Split) -> int:
        """Batches of a split."""
        ...

    def batches(self, split: Split, start: int) -> Iterator[CodeBatch]:
        """The batches from number `start` on, the same ones in every call."""
        ...


class Encoder:
    """Dictionaries that encode activations while these are read, once for all of them; at most the `topk` largest codes."""

    def __init__(self, dictionaries: Mapping[str, Dictionary], batch_size: int, topk: int | None):
        self.names, self.dictionaries, self.batch_size, self.topk = tuple(dictionaries), dictionaries, batch_size, topk

    def n_batches(self, split: Split) -> int:
        return self._stream(split).n_batches

    @torch.inference_mode()
    def batches(self, split: Split, start: int) -> Iterator[CodeBatch]:
        stream = self._stream(split)
        device = next(iter(self.dictionaries.values())).atoms.device
        for batch in stream.batches(start, stream.n_batches):
            x = torch.from_numpy(batch["acts"]).to(device).float()
            codes = {name: sparse_codes(one, x, self.topk) for name, one in self.dictionaries.items()}
            yield CodeBatch(codes, batch["example"], batch["token"])

    def _stream(self, split: Split) -> TokenStream:
        return open_stream(split.store, split.layer, self.batch_size, split.images, split.tokens)


class CodesOnDisk:
    """One dictionary's codes that `saev encode` wrote."""

    def __init__(self, name: str, codes: CodeStore, batch_size: int, device: str):
        self.names, self.codes, self.batch_size, self.device = (name,), codes, batch_size, device

    def check(self, split: Split) -> None:
        """ValueError where these codes are not of the split's activations, or lack images of it."""
        codes, expected = self.codes.manifest, split.store.manifest.fingerprint
        if codes.dataset["fingerprint"] != expected or codes.layer != split.layer or codes.tokens != split.tokens:
            raise ValueError(
                f"{self.codes.root} has codes of {codes.dataset['name']}, layer {codes.layer}, tokens={codes.tokens}; the "
                f"{split.name} tokens are of {split.store.name}, layer {split.layer}, tokens={split.tokens}: encode these."
            )
        absent = np.setdiff1d(split.images, self.codes.runs.example)
        if len(absent):
            raise ValueError(
                f"{self.codes.root} has no codes of {len(absent)} of the {split.name} images: encode with examples=all."
            )

    def n_batches(self, split: Split) -> int:
        return -(-len(self.codes) // self.batch_size)

    def batches(self, split: Split, start: int) -> Iterator[CodeBatch]:
        for first in range(start * self.batch_size, len(self.codes), self.batch_size):
            last = min(first + self.batch_size, len(self.codes))
            codes = SparseCodes(*(part.to(self.device) for part in self.codes.rows(first, last).torch()))
            yield CodeBatch({self.names[0]: codes}, *self.codes.tokens(first, last))


def l0_of_first_batch(source: Source, split: Split) -> dict[str, float]:
    """Mean number of non-zero codes per token of the first batch, by dictionary; at least 1."""
    first = next(iter(source.batches(split, 0)))
    return {name: max(1.0, len(codes.latents) / max(1, len(codes.offsets) - 1)) for name, codes in first.codes.items()}
