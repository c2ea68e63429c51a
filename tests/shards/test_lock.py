"""A lock is held by one, and ends with its holder."""

import pytest

from saev.shards.lock import exclusive, is_locked


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
