"""Tokens of some images of one layer of a recording, and the streams that read them."""

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int64

from saev.shards.reader import ActivationStore
from saev.shards.selection import Spans, select
from saev.shards.stream import TokenStream, open_stream


@dataclasses.dataclass(frozen=True)
class Selection:
    """The tokens of some images of one layer, in the dataset's order: row r of the codes is token r of these."""

    store: ActivationStore
    layer: int
    images: Int64[np.ndarray, " images"]
    tokens: str = "patches"  # the roles to take: patches, cls, special or all
    ignore_labels: tuple[int, ...] = ()  # leave out tokens with these labels

    @cached_property
    def spans(self) -> Spans:
        """The rows as spans of tokens; a token is numbered within its image's stored tokens."""
        labels = self.store.labels_for(self.ignore_labels)
        counts, part = self.store.tokens_per_image(self.layer), self.store.role_slice(self.tokens)
        spans = select(counts, self.images, part, labels, self.ignore_labels)
        if spans.n_tokens == 0:
            raise ValueError(
                f"tokens={self.tokens} of {len(self.images)} images of {self.store.name}: nothing is selected; choose other "
                "tokens or examples=all."
            )
        return spans

    @cached_property
    def _shard(self) -> Int64[np.ndarray, " n_examples"]:
        return self.store.shard_of(self.layer)

    @cached_property
    def rows(self) -> Int64[np.ndarray, " shards"]:
        """Rows in each shard of the activations, 0 where no token of it is selected."""
        rows = np.zeros(len(self.store.shard_urls(self.layer)), np.int64)
        np.add.at(rows, self._shard[self.spans.example], self.spans.stop - self.spans.start)
        return rows

    def batches(self, shard: int, batch_size: int) -> Iterator[dict[str, Any]]:
        """A shard's rows in order, in the fewest equal batches of at most `batch_size`.

        Batches start anew at each shard, so the codes of a shard depend on its tokens alone: an encoding that was
        interrupted or divided into parts equals one that was not.
        """
        if self.rows[shard] == 0:
            return
        stream = self.stream(batch_size, self.images[self._shard[self.images] == shard])
        yield from stream.batches(0, stream.n_batches)

    def first_batch(self, batch_size: int) -> dict[str, Any]:
        """The first rows, at most `batch_size`."""
        return next(self.stream(batch_size, limit=batch_size).batches(0, 1))

    def stream(
        self, batch_size: int, images: Int64[np.ndarray, " images"] | None = None, limit: int | None = None
    ) -> TokenStream:
        """A stream over the rows in order: of all images, or of the given ones among them."""
        images = self.images if images is None else images
        return open_stream(self.store, self.layer, batch_size, images, self.tokens, self.ignore_labels, limit)
