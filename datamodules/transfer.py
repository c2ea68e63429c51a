"""Batches on their way to a GPU: page-locked memory that is used again only when its copy has been made."""

from collections import deque
from typing import Any

import numpy as np
import torch


def pinned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Page-locked memory, out of which a GPU copies while the program goes on."""
    return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=True).numpy()


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
