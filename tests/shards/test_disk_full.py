"""A recording that fills the disk says so, leaves nothing half, and goes on after room is made."""

import contextlib
import errno
import os
import resource
import signal

import pytest
from recordings import record

from saev.shards import ActivationStore, RecordingWriter
from saev.shards.layer_shard import LayerShard


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return files(recorded(tmp_path_factory.mktemp("room") / "whole"))


def recorded(root):
    return record(root, 9, layers=(1, 2), examples_per_shard=3, labels=True)


@contextlib.contextmanager
def largest_file(n_bytes):
    """No file may grow beyond so many bytes: what a quota does, and a small disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_shard_does_not_fit(whole, tmp_path):
    root = tmp_path / "data"
    with largest_file(3000), pytest.raises(OSError, match=r"data is full .*3 of 3 shards are left: make room and run"):
        recorded(root)
    assert files(root).keys() == {"manifest.json"}, "nothing half is left"
    assert files(recorded(root)) == whole


class Full:
    """The call number `at` of a function finds the disk full."""

    def __init__(self, call, at):
        self.call, self.left = call, at

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.call(*args, **kwargs)


@pytest.mark.parametrize("at", range(0, 30, 3))
def test_the_disk_is_full_at_any_fsync(whole, tmp_path, monkeypatch, at):
    """Shards, their tables, sidecars, and the tables of the dataset all end with one."""
    root = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", Full(os.fsync, at))
        with pytest.raises(OSError, match=r"data is full .*make room and run"):
            recorded(root)
    left = files(root)
    assert not [name for name in left if name.endswith((".part", ".tmp"))]
    shards = {name for name in left if name.endswith(".tar")}
    done = sum(name.startswith("shard-") and name.endswith(".json") for name in left)
    assert len(shards) == 2 * done, "shards are there for every layer or for none"
    if left:
        with pytest.raises(ValueError, match=rf"incomplete .{done} of 3 shards"):
            ActivationStore(root)
    assert files(recorded(root)) == whole


def test_the_disk_is_full_in_the_middle_of_a_block(whole, tmp_path, monkeypatch):
    root = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(LayerShard, "_write", lambda self, data: (self.file.write(data[:100]), Full(None, 0)())[0])
        with pytest.raises(OSError, match="make room") as caught:
            recorded(root)
    assert caught.value.errno == errno.ENOSPC and files(root).keys() == {"manifest.json"}
    assert files(recorded(root)) == whole


def test_other_errors_of_the_system_are_left_as_they_are(tmp_path):
    writer = RecordingWriter(tmp_path / "data", {}, 1, 1, [0], {"patches": 1}, 2)
    with pytest.raises(PermissionError, match=r"^not allowed$"), writer.shard(0):
        raise PermissionError("not allowed")
