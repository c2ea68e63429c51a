"""Batches in flight are held until their copy is made; events stand for the GPU, which is not here."""

import numpy as np
import pytest
import torch

from datamodules.transfer import InFlight, pinned
from saev.shards.buffers import Buffers


class Event:
    def __init__(self, done):
        self.done, self.recorded = done, False

    def record(self):
        self.recorded = True

    def query(self):
        assert self.recorded
        return self.done[0]


def test_batches_are_held_until_their_copy_is_made_in_order():
    flags = [[False], [False], [True]]
    events = iter([Event(flag) for flag in flags])
    flight = InFlight(lambda: next(events))
    flight.hold("a")
    flight.hold("b")
    assert [batch for _, batch in flight.held] == ["a", "b"]
    flags[0][0] = True
    flight.hold("c")
    assert [batch for _, batch in flight.held] == ["b", "c"]  # c is done, but stands behind b


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a CUDA GPU")
def test_pinned_memory_is_page_locked():
    batch = Buffers((4, 3), np.dtype(np.float16), allocate=pinned).take()
    assert torch.from_numpy(batch[:2]).is_pinned()
