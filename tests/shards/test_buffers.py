"""Recycled buffers: never one that somebody still holds, in whatever form."""

import gc

import numpy as np
import torch

from saev.shards.buffers import ALIGNMENT, Buffers


def address(array):
    return array.__array_interface__["data"][0]


def test_what_was_dropped_comes_back_and_what_is_held_does_not():
    buffers = Buffers((4, 3), np.dtype("f4"))
    tensor = torch.from_numpy(buffers.take()[:2])  # a view of a view, as a batch is
    held = tensor.data_ptr()
    other = buffers.take()
    assert address(other) != held
    first = address(other)
    del other
    assert address(buffers.take()) == first and len(buffers.blocks) == 2
    del tensor
    gc.collect()
    assert address(buffers.take()) == held


def test_slices_of_a_tensor_hold_its_buffer():
    buffers = Buffers((4, 3), np.dtype("f4"))
    row = torch.from_numpy(buffers.take())[1]
    assert address(buffers.take()) != row.data_ptr() - 12


def test_a_consumer_that_keeps_everything_gets_new_memory_that_is_not_kept():
    buffers = Buffers((2,), np.dtype("f4"), most=3)
    kept = [buffers.take() for _ in range(7)]
    assert len({address(a) for a in kept}) == 7 and len(buffers.blocks) == 3


def test_memory_of_another_owner_is_held_by_its_views_too():
    """As page-locked memory is: an array over a tensor's memory."""
    buffers = Buffers((4, 3), np.dtype("f2"), allocate=lambda n: torch.empty(n, dtype=torch.uint8).numpy())
    held = torch.from_numpy(buffers.take()[1:3])
    other = buffers.take()
    assert address(other) != held.data_ptr() - 6 and len(buffers.blocks) == 2
    first = held.data_ptr() - 6
    del held
    assert address(buffers.take()) == first


def test_arrays_are_aligned():
    buffers = Buffers((5, 7), np.dtype("f4"))
    kept = [buffers.take() for _ in range(3)]
    assert all(address(a) % ALIGNMENT == 0 and a.shape == (5, 7) and a.dtype == np.float32 for a in kept)
