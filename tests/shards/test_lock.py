"""A lock is held by one, and ends with its holder."""

import threading

import pytest

from saev import locks as lock
from saev.locks import exclusive, is_locked


def test_one_at_a_time(tmp_path):
    path = tmp_path / "a" / "lock"
    assert not is_locked(path)
    with exclusive(path):
        assert is_locked(path)
        with pytest.raises(ValueError, match="taken"), exclusive(path, busy="taken"):
            pass
    assert not is_locked(path)
    with exclusive(path, busy="taken"):
        assert is_locked(path)


def test_divisions_of_one_work_wait_for_each_other(tmp_path, monkeypatch):
    """Guards against two recordings with different numbers of parts that meet at one shard and destroy it."""
    monkeypatch.setattr(lock, "POLL_S", 0.01)
    order = []

    def work(number, n_parts, begun, go):
        with lock.part_of(tmp_path, "data", number, n_parts):
            order.append((number, n_parts))
            begun.set()
            go.wait(20)

    events = [(threading.Event(), threading.Event()) for _ in range(3)]
    threads = []
    for (number, n_parts), (begun, go) in zip([(0, 2), (1, 2), (0, 1)], events, strict=True):
        threads.append(threading.Thread(target=work, args=(number, n_parts, begun, go)))
        threads[-1].start()
        if n_parts == 2:  # parts of one division go on side by side
            assert begun.wait(20)
    assert not events[2][0].wait(0.2)
    events[0][1].set()
    assert not events[2][0].wait(0.2)
    events[1][1].set()
    assert events[2][0].wait(20)
    events[2][1].set()
    for thread in threads:
        thread.join()
    assert order == [(0, 2), (1, 2), (0, 1)]
