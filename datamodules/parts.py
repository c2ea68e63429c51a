"""Batches in parts: sub-streams that share the epoch, of which each process reads its own and puts them side by side.

What a step sees is a function of (seed, epoch, parts), whatever the number of processes among which the parts are dealt out.
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
    """The number of parts (None: one for each process); ValueError where they cannot be dealt out, or filled.

    >>> parts_of(None, 2, 64), parts_of(4, 2, 64)
    (2, 4)
    """
    if parts is not None and parts % processes:
        raise ValueError(
            f"datamodule.parts={parts} cannot be dealt out to {processes} processes: give a multiple of {processes}, or take a "
            f"number of processes (trainer.devices) that divides {parts}."
        )
    parts = processes if parts is None else parts
    if batch_size < parts:
        raise ValueError(
            f"batch_size={batch_size} is less than a token for each of {parts} parts (datamodule.parts, or the number of processes): "
            "give more tokens."
        )
    return parts


class Joint:
    """Some parts of a stream as one stream of batches, each with `tokens`, the number in the batch over all processes.

    A single part is handed on as it is; several are copied side by side.
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
                del batch  # what nobody holds can be recycled

    def _next(self, iterators: Sequence[Iterator[dict[str, Any]]], buffers: Buffers) -> dict[str, Any] | None:
        parts = [part for iterator in iterators if (part := next(iterator, None)) is not None]
        if len(parts) < len(iterators):  # all of them end together, unless one was told to close
            return None
        tokens = self.plan.tokens(parts[0]["step"])
        return {**(parts[0] if len(parts) == 1 else _side_by_side(parts, buffers)), "tokens": tokens}


def _part(stream: TokenStream, part: int, allocate: Allocate) -> TokenStream:
    other = copy.copy(stream)  # the plan, which takes seconds to make for a large dataset, is shared
    other.rank, other.allocate = part, allocate
    return other


def _side_by_side(parts: Sequence[dict[str, Any]], buffers: Buffers) -> dict[str, Any]:
    acts = [part["acts"] for part in parts]
    out = buffers.take()[: sum(len(part) for part in acts)]
    rest = {key: np.concatenate([part[key] for part in parts]) for key in parts[0] if key not in ("acts", "step")}
    return {"acts": np.concatenate(acts, out=out), **rest, "step": parts[0]["step"]}
