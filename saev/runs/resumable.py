"""A loop over batches whose state is saved to one file every few seconds and at a signal, and resumed from it."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from saev.files import replacing
from saev.runs.signals import After, Signals

log = logging.getLogger(__name__)


class Resumable:
    """Saves `state()` to `path`; used as a context around the loop, which calls `between_batches`.

    Args:
        path: the checkpoint; None: nothing is saved, and signals end the process as usual.
        state: returns tensors and plain values.
        save_every_s: seconds between saves.
        remedy: logged when a signal stops the loop: how to resume it.
    """

    def __init__(self, path: Path | None, state: Callable[[], dict[str, Any]], save_every_s: float, remedy: str):
        self.path, self.state, self.save_every_s, self.remedy = path, state, save_every_s, remedy
        self.signals, self.saved = Signals(), 0.0

    def load(self, device: str = "cpu") -> dict[str, Any] | None:
        """The saved state; None where nothing was saved."""
        if self.path is None or not self.path.is_file():
            return None
        return torch.load(self.path, weights_only=True, map_location=device)

    def save(self) -> None:
        """Replace the checkpoint by the present state."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as file:
                torch.save(self.state(), file)
        self.saved = time.monotonic()

    def __enter__(self) -> "Resumable":
        self.saved = time.monotonic()
        if self.path is not None:
            self.signals.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.signals.release()

    def between_batches(self) -> None:
        """Save where a signal or the time asks for it; then requeue the job, or raise SystemExit(128 + signal), as it asks."""
        if not self.signals.pending and time.monotonic() - self.saved <= self.save_every_s:
            return
        self.save()
        received, after = self.signals.take()
        if after == After.REQUEUE:
            self.signals.leave()
        if after == After.STOP:
            log.warning("stopped; to resume: %s", self.remedy)
            raise SystemExit(128 + (received or 0))
