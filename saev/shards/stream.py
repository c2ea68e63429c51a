"""Shuffled batches of tokens at memory speed: large ordered reads into two windows, one gather per batch.

    EpochPlan ──spans──▶ window (read by threads while batches are drawn from the other window) ──gather──▶ batches

The stream is a function of the number of consumed batches, so that number is all a checkpoint needs.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from saev.shards.buffers import Allocate, Buffers, pageable
from saev.shards.computed import WHOLE, ComputedRows, ComputedStore
from saev.shards.epoch_plan import EpochPlan
from saev.shards.mapped import MappedRows
from saev.shards.reader import ActivationStore
from saev.shards.remote import RETRY_S, Closed
from saev.shards.selection import positions, select
from saev.shards.streamed import StreamedRows

Reader = Literal["mapped", "streamed", "live"]


class Window(NamedTuple):
    """Tokens in memory, their images, positions and labels, and the order in which they are put into batches."""

    rows: Shaped[np.ndarray, "tokens width"]
    example: Int32[np.ndarray, " tokens"]
    token: Int32[np.ndarray, " tokens"]
    label: np.ndarray | None
    edges: Int64[np.ndarray, " batches_plus_1"]
    order: Int32[np.ndarray, " tokens"]


class TokenStream:
    """Batches of one layer's tokens; all sizes in tokens.

    `batches(start)` yields {"acts": [batch, d_model], "example": int64 [batch], "token": int32 [batch], "label": uint16
    [batch] if the recording has labels, "step": int} for step = start, start + 1, ... over any number of epochs.
    Activations have the stored dtype (float32 for int8 storage). `token` is the position among the image's stored tokens.

    Args:
        examples: the images to take (None: all), in the order in which `limit` counts them.
        tokens: the roles to take: patches, cls, special or all.
        ignore_labels: leave out tokens with these labels (65535: unlabelled ones).
        limit: take at most so many tokens.
        window: tokens read and mixed at a time; two windows are in memory.
        stripe: tokens of an image that stay together in a window.
        reader: mapped (random access to local files), streamed (shards in a random order, each from its beginning) or live (computed,
            `store` is a ComputedStore; images in a random order, each of them whole in a window as far as it fits).
        readers: reading threads.
        retry_s: seconds after which a remote shard that fails or is silent is given up (reader=streamed).
        rank, world: number of this process, and the number of processes that divide the stream.
    """

    def __init__(
        self,
        store: ActivationStore,
        layer: int,
        batch_size: int,
        examples: Int64[np.ndarray, " images"] | None = None,
        tokens: str = "patches",
        seed: int = 0,
        shuffle: bool = True,
        window: int = 1 << 19,
        stripe: int = 32,
        rank: int = 0,
        world: int = 1,
        ignore_labels: Collection[int] = (),
        limit: int | None = None,
        reader: Reader = "mapped",
        readers: int = 1,
        allocate: Allocate = pageable,
        retry_s: float = RETRY_S,
    ):
        if reader == "streamed" and store.manifest.meaning.get("foreign"):
            raise ValueError(
                f"datamodule.reader=streamed: {store.location.root} is an index of other programs' tars, which can only be read "
                "in place: use datamodule.reader=mapped on a local directory."
            )
        self.store, self.layer, self.rank, self.reader, self.readers = store, layer, rank, reader, readers
        self.codec, self.allocate, self.retry_s = store.codec(layer), allocate, retry_s
        self.while_waiting: Callable[[], None] | None = None  # called by `batches` while tokens are read; may raise
        self.tokens = store.tokens_per_image(layer)
        self.labels = store.labels_for(ignore_labels)
        examples = np.arange(len(self.tokens)) if examples is None else examples
        spans = select(self.tokens, examples, store.role_slice(tokens), self.labels, ignore_labels, limit)
        order = "sequential" if not shuffle else "shards" if reader == "streamed" else "stripes"
        shard = store.shard_of(layer)[spans.example] if order == "shards" else None
        stripe = WHOLE if reader == "live" else stripe
        self.plan = EpochPlan(spans, batch_size, window, order, stripe, seed, world, shard)

    @property
    def n_tokens(self) -> int:
        """Tokens of one epoch, over all ranks."""
        return self.plan.n_tokens

    @property
    def n_batches(self) -> int:
        """Batches of one epoch, per rank."""
        return self.plan.n_batches

    def batches(
        self, start: int = 0, stop: int | None = None, closing: threading.Event | None = None
    ) -> Iterator[dict[str, Any]]:
        """Batches start, start + 1, ..., stop - 1 (endless without `stop`); the next window is read in the background.

        Once any thread sets `closing`, the iterator ends without waiting for the window that is being read.
        """
        plan, ended = self.plan, threading.Event()
        width, dtype = self.codec.stored_shape_dtype
        largest = min(plan.batches_per_window * plan.largest_batch + 1, self.n_tokens)
        windows = Buffers((largest, width), dtype, most=2)
        batches = Buffers((plan.largest_batch, self.store.d_model), self.codec.decoded_dtype, allocate=self.allocate)
        first = np.cumsum(self.tokens) - self.tokens
        rows = self._rows(lambda: ended.is_set() or (closing is not None and closing.is_set()))
        step, (number, skip) = start, divmod(start % self.n_batches, plan.batches_per_window)
        at = (start // self.n_batches, number)
        with ThreadPoolExecutor(1, "window") as pool:
            try:
                ahead = pool.submit(self._read, rows, at, windows, first)
                while stop is None or step < stop:
                    while not wait([ahead], timeout=0.1).done:
                        if closing is not None and closing.is_set():
                            return
                        if self.while_waiting is not None:
                            self.while_waiting()
                    window = ahead.result()
                    at = (at[0], at[1] + 1) if at[1] + 1 < plan.n_windows else (at[0] + 1, 0)
                    if stop is None or step + len(window.edges) - 1 - skip < stop:
                        ahead = pool.submit(self._read, rows, at, windows, first)
                    for low, high in zip(window.edges[skip:-1], window.edges[skip + 1 :], strict=True):
                        if stop is not None and step >= stop:
                            return
                        yield {**self._batch(window, window.order[low:high], batches), "step": step}
                        step += 1
                    skip = 0
                    del window
            except Closed:
                return
            finally:
                ended.set()
                pool.shutdown(cancel_futures=True)
                rows.close()

    def _rows(self, closing: Callable[[], bool]) -> MappedRows | StreamedRows | ComputedRows:
        if self.reader == "live":
            return ComputedRows(self.store, self.layer, closing)
        if self.reader == "mapped":
            paths, offsets = self.store.shard_paths(self.layer), self.store.offsets(self.layer)
            return MappedRows(paths, offsets, self.codec.row_bytes, closing, self.readers)
        shard = self.store.shard_of(self.layer)
        return StreamedRows(
            self.store.shard_urls(self.layer), self.store.shards(self.layer), shard, entry_numbers(shard, self.tokens),
            self.tokens, closing, self.readers, self.retry_s,
        )  # fmt: skip

    def _read(
        self, rows: MappedRows | StreamedRows | ComputedRows, at: tuple[int, int], windows: Buffers, first: np.ndarray
    ) -> Window:
        spans, edges = self.plan.window_plan(*at, self.rank)
        n = int(edges[-1])
        buffer = windows.take()[:n]
        rows.fill(spans, buffer)
        span, token = positions(spans)
        example = spans.example[span]
        label = None if self.labels is None else self.labels[first[example] + token]
        order = self.plan.permutation(*at, self.rank, n)
        return Window(buffer, example.astype(np.int32), token.astype(np.int32), label, edges, order)

    def _batch(self, window: Window, order: Int32[np.ndarray, " batch"], buffers: Buffers) -> dict[str, Any]:
        rows = order.astype(np.intp)
        batch = {
            "acts": self._gather(window.rows, rows, buffers.take()[: len(rows)]),
            "example": window.example[rows].astype(np.int64),
            "token": window.token[rows],
        }
        return batch if window.label is None else {**batch, "label": window.label[rows]}

    def _gather(self, stored: np.ndarray, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        if self.codec.decoded_dtype == stored.dtype:
            return np.take(stored, rows, axis=0, out=out, mode="clip")  # clip: the mode that writes to `out` directly
        return self.codec.decode(stored[rows], out)


def reader_for(*stores: ActivationStore) -> Reader:
    """The fastest reader that can open all of these recordings: mapped where they are local, else streamed; live where all are computed."""
    if any(isinstance(store, ComputedStore) for store in stores):
        return "live"
    return "streamed" if any(store.location.remote for store in stores) else "mapped"


def open_stream(
    store: ActivationStore,
    layer: int,
    batch_size: int,
    images: Int64[np.ndarray, " images"] | None = None,
    tokens: str = "patches",
    ignore_labels: Collection[int] = (),
    limit: int | None = None,
) -> TokenStream:
    """The selected tokens in stored order, not shuffled, whether the recording is local or remote; see `TokenStream`."""
    return TokenStream(
        store, layer, batch_size, images, tokens, shuffle=False, window=4 * batch_size,
        ignore_labels=tuple(ignore_labels), limit=limit, reader=reader_for(store),
    )  # fmt: skip


def entry_numbers(
    shard: Int64[np.ndarray, " n_examples"], tokens: Int64[np.ndarray, " n_examples"]
) -> Int64[np.ndarray, " n_examples"]:
    """The number of each image's entry in its shard's tar; unreadable images (0 tokens) have no entry.

    >>> entry_numbers(np.array([0, 0, 0, 1, 1]), np.array([4, 0, 4, 4, 4]))
    array([0, 0, 1, 0, 1])
    """
    readable = np.flatnonzero(tokens)
    numbers = np.zeros(len(tokens), np.int64)
    _, begins, inverse = np.unique(shard[readable], return_index=True, return_inverse=True)
    numbers[readable] = np.arange(len(readable)) - begins[inverse]
    return numbers
