"""Batches on their way to a GPU: page-locked memory that is used again only when its copy has been made."""

from collections import deque
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8


def pinned(n_bytes: int) -> UInt8[np.ndarray, " n_bytes"]:
    """Page-locked memory, out of which a GPU copies while the program goes on."""
    return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True).numpy()


class InFlight:
    """Holds what is being copied: as long as it is held here, the stream does not fill it anew."""

    def __init__(self, make_event: Any = torch.cuda.Event):
        self.make_event = make_event
        self.held: deque[tuple[Any, Any]] = deque()

    def hold(self, batch: Any) -> None:
        """Keep `batch` until the copies that have been queued by now are made; let go of those that are."""
        event = self.make_event()
        event.record()
        self.held.append((event, batch))
        while self.held and self.held[0][0].query():
            self.held.popleft()
