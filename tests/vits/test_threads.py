import threading
import time

import pytest

from saev.vits.threads import default_workers, load_ahead


def test_results_come_in_order_whatever_takes_longest():
    def slow_first(i):
        time.sleep(0.02 * (i % 3 == 0))
        return i * i

    assert list(load_ahead(slow_first, range(20), n_workers=4, ahead=6)) == [i * i for i in range(20)]


def test_no_more_than_the_depth_is_loaded_ahead():
    started = []
    stream = load_ahead(lambda i: started.append(i), range(100), n_workers=2, ahead=5)
    next(stream)
    time.sleep(0.05)
    assert len(started) <= 7
    stream.close()
    time.sleep(0.05)
    assert len(started) <= 7, "closing stops the loading"
    assert not [t for t in threading.enumerate() if t.name.startswith("load")]


def test_an_error_of_one_item_is_raised_in_order():
    stream = load_ahead(lambda i: 1 / (i - 2), range(5), n_workers=2, ahead=4)
    assert [next(stream), next(stream)] == [-0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_threads_are_as_many_as_the_cores_that_may_be_used(monkeypatch):
    import os

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert default_workers() == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(100)), raising=False)
    assert default_workers() == 16
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_workers() == 1
