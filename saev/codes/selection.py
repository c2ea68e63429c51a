"""Which tokens are encoded, as rows of the codes, and how they are read: shard by shard of the activations."""

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int64

from saev.shards import ActivationStore, TokenStream, open_stream
from saev.shards.selection import Runs, select


@dataclasses.dataclass(frozen=True)
class Selection:
    """The tokens of some images of one layer, in the dataset's order: row r of the codes is token r of these."""

    store: ActivationStore
    layer: int
    images: Int64[np.ndarray, " images"]
    tokens: str = "patches"  # the roles to take: patches, cls, special or all
    ignore_labels: tuple[int, ...] = ()  # leave out tokens with these labels

    @cached_property
    def runs(self) -> Runs:
        """The rows as runs of tokens; a token is numbered within its image's stored tokens."""
        labels = self.store.labels_for(self.ignore_labels)
        counts, part = self.store.tokens_per_image(self.layer), self.store.role_slice(self.tokens)
        runs = select(counts, self.images, part, labels, self.ignore_labels)
        if runs.n_tokens == 0:
            raise ValueError(
                f"tokens={self.tokens} of {len(self.images)} images of {self.store.name}: nothing is selected; choose other "
                "tokens or examples=all."
            )
        return runs

    @cached_property
    def _shard(self) -> Int64[np.ndarray, " n_examples"]:
        return self.store.shard_of(self.layer)

    @cached_property
    def rows(self) -> Int64[np.ndarray, " shards"]:
        """Rows that come from each shard of the activations; some may have none."""
        lengths = self.runs.stop - self.runs.start
        n_shards = len(self.store.shard_urls(self.layer))
        rows = np.zeros(n_shards, np.int64)
        np.add.at(rows, self._shard[self.runs.example], lengths)
        return rows

    def batches(self, shard: int, batch_size: int) -> Iterator[dict[str, Any]]:
        """A shard's rows in order, in the fewest equal batches of at most `batch_size`.

        Batches begin anew at each shard: what a shard holds depends on its own tokens alone, so an encoding that was
        interrupted or divided equals one that was not.
        """
        if self.rows[shard] == 0:
            return
        stream = self._stream(self.images[self._shard[self.images] == shard], batch_size)
        yield from stream.batches(0, stream.n_batches)

    def first_batch(self, batch_size: int) -> dict[str, Any]:
        """The first rows, at most `batch_size`."""
        return next(self._stream(self.images, batch_size, limit=batch_size).batches(0, 1))

    def _stream(self, images: Int64[np.ndarray, " some"], batch_size: int, limit: int | None = None) -> TokenStream:
        return open_stream(self.store, self.layer, batch_size, images, self.tokens, self.ignore_labels, limit)
