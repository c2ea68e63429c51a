"""Copying batches to a GPU: page-locked memory that is reused only after its copy has ended."""

from collections import deque
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8


def pinned(n_bytes: int) -> UInt8[np.ndarray, " n_bytes"]:
    """Page-locked memory, from which a GPU copies asynchronously."""
    return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True).numpy()


class InFlight:
    """Keeps batches referenced during their copy, so that the stream does not reuse their memory."""

    def __init__(self, make_event: Any = torch.cuda.Event):
        self.make_event = make_event
        self.held: deque[tuple[Any, Any]] = deque()

    def hold(self, batch: Any) -> None:
        """Keep `batch` until all copies queued so far have ended; drop the batches whose copies have ended."""
        event = self.make_event()
        event.record()
        self.held.append((event, batch))
        while self.held and self.held[0][0].query():
            self.held.popleft()
