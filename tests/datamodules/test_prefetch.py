"""The background thread gives everything in order, passes exceptions on, and ends promptly."""

import itertools
import threading

import pytest

from datamodules.prefetch import prefetch


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_everything_in_order(depth):
    assert list(prefetch(range(50), depth)) == list(range(50))


def test_exceptions_are_raised_in_order():
    def items():
        yield 1
        raise KeyError("broken")

    got = prefetch(items(), 2)
    assert next(got) == 1
    with pytest.raises(KeyError, match="broken"):
        next(got)


def test_closing_ends_the_thread_and_the_source():
    closed = threading.Event()

    def items():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    others = {*threading.enumerate()}  # also those of an iterator that an exception's traceback still holds
    got = prefetch(items(), 2)
    assert next(got) == 0
    (thread,) = {*threading.enumerate()} - others
    got.close()
    assert closed.is_set() and not thread.is_alive()
