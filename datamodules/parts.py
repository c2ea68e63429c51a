"""Batches made of sub-streams (parts) that divide the epoch; a process reads its parts and concatenates them.

The batches depend on (seed, epoch, parts), not on the number of processes among which the parts are distributed.
"""

import contextlib
import copy
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from saev.shards import TokenStream
from saev.shards.buffers import Allocate, Buffers, pageable


def parts_of(parts: int | None, processes: int, batch_size: int) -> int:
    """The number of parts (None: one per process); ValueError where they cannot be distributed or filled.

    >>> parts_of(None, 2, 64), parts_of(4, 2, 64)
    (2, 4)
    """
    if parts is not None and parts % processes:
        raise ValueError(
            f"datamodule.parts={parts}: must be a multiple of {processes}, the number of processes; or choose trainer.devices "
            f"that divides {parts}."
        )
    parts = processes if parts is None else parts
    if batch_size < parts:
        raise ValueError(
            f"batch_size={batch_size}: must be at least {parts}, a token for each of the parts (datamodule.parts, or the number "
            "of processes)."
        )
    return parts


class Joint:
    """Parts of a stream as one stream of batches, each with `tokens`, the batch's number of tokens over all processes.

    A single part is not copied; several are concatenated.
    """

    def __init__(self, stream: TokenStream, parts: Sequence[int]):
        self.plan, self.allocate = stream.plan, stream.allocate
        self.streams = [_part(stream, part, stream.allocate if len(parts) == 1 else pageable) for part in parts]
        self.shape = (len(parts) * self.plan.largest_batch, stream.store.d_model)
        self.dtype = stream.codec.decoded_dtype

    def batches(
        self, start: int = 0, stop: int | None = None, closing: threading.Event | None = None
    ) -> Iterator[dict[str, Any]]:
        """As `TokenStream.batches`."""
        buffers = Buffers(self.shape, self.dtype, allocate=self.allocate)
        with contextlib.ExitStack() as opened:
            iterators: list[Any] = [stream.batches(start, stop, closing) for stream in self.streams]
            for iterator in iterators:
                opened.enter_context(contextlib.closing(iterator))
            while (batch := self._next(iterators, buffers)) is not None:
                yield batch
                del batch  # so that its memory can be reused

    def _next(self, iterators: Sequence[Iterator[dict[str, Any]]], buffers: Buffers) -> dict[str, Any] | None:
        parts = [part for iterator in iterators if (part := next(iterator, None)) is not None]
        if len(parts) < len(iterators):  # all end together, unless `closing` was set
            return None
        tokens = self.plan.tokens(parts[0]["step"])
        return {**(parts[0] if len(parts) == 1 else _concatenated(parts, buffers)), "tokens": tokens}


def _part(stream: TokenStream, part: int, allocate: Allocate) -> TokenStream:
    other = copy.copy(stream)  # shares the plan, which takes seconds to compute for a large recording
    other.rank, other.allocate = part, allocate
    return other


def _concatenated(parts: Sequence[dict[str, Any]], buffers: Buffers) -> dict[str, Any]:
    acts = [part["acts"] for part in parts]
    out = buffers.take()[: sum(len(part) for part in acts)]
    rest = {key: np.concatenate([part[key] for part in parts]) for key in parts[0] if key not in ("acts", "step")}
    return {"acts": np.concatenate(acts, out=out), **rest, "step": parts[0]["step"]}
