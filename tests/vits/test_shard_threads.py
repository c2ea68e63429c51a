"""Shards are written side by side; what happens to one of them does not change or lose the others."""

import errno
import threading
import time
from contextlib import contextmanager

import pytest
from conftest import mostly_slow
from vits.micro_recordings import N, contents, recording

from saev.images import FolderImages
from saev.shards import layer_shard
from saev.shards.layer_shard import LayerShard
from saev.shards.shard_writer import ShardWriter
from saev.vits import MicroVit, recording_pass, shard_threads
from saev.vits.shard_threads import OPEN_SHARDS, ShardThreads


class Shards:
    """Shards that note what happens to them; `slow`: seconds until one is committed."""

    def __init__(self, slow=0.0, bad=None):
        self.slow, self.bad, self.events, self.open, self.most = slow, bad, [], 0, 0

    @contextmanager
    def shard(self, i):
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            yield i
            time.sleep(self.slow)
            if i == self.bad:
                raise OSError(errno.ENOSPC, f"shard {i}")
            self.events.append(i)
        except Exception as error:
            self.events.append((i, type(error).__name__))
            raise
        finally:
            self.open -= 1


def test_shards_are_filled_in_order_and_finished_side_by_side():
    shards, calls = Shards(slow=0.05), []
    with ShardThreads(shards.shard, waiting=2) as out:
        for shard in range(6):
            out.start(shard)
            for batch in range(3):
                out.append(lambda i, batch=batch: calls.append((i, batch)))
            out.end()
    assert sorted(calls) == [(i, batch) for i in range(6) for batch in range(3)]
    assert [batch for i, batch in calls if i == 4] == [0, 1, 2]
    assert sorted(shards.events) == list(range(6)) and shards.most == OPEN_SHARDS
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shard")]


def test_no_more_batches_wait_than_allowed():
    started, go = [], threading.Event()
    with ShardThreads(Shards().shard, waiting=2) as out:
        out.start(0)
        for batch in range(2):
            out.append(lambda i: go.wait(5))
            started.append(batch)
        late = threading.Thread(target=lambda: (out.append(print), started.append(2)))
        late.start()
        time.sleep(0.05)
        assert started == [0, 1]
        go.set()
        late.join()
        out.end()


@pytest.mark.parametrize("where", ["append", "start", "end"])
def test_an_error_in_a_thread_is_raised_and_the_shard_being_filled_is_given_up(where):
    shards = Shards(bad=1)
    with pytest.raises(OSError, match="shard 1"), ShardThreads(shards.shard, waiting=1) as out:
        for shard in range({"append": 3, "start": 9, "end": 2}[where]):
            out.start(shard)
            for _ in range(10**9 if where == "append" and shard == 2 else 1):
                out.append(lambda i: time.sleep(0.001))
                if where == "append" and shard == 2 and out.shards[1].done():
                    out.shards[1].result()
            out.end()
    assert 0 in shards.events and (1, "OSError") in shards.events


def test_an_error_of_a_call_ends_its_shard_at_once():
    shards = Shards()
    with pytest.raises(ZeroDivisionError), ShardThreads(shards.shard, waiting=1) as out:
        out.start(0)
        out.append(lambda i: 1 / 0)
        for _ in range(3):
            out.append(print)
    assert shards.events == [(0, "ZeroDivisionError")]


def test_an_error_of_the_caller_keeps_complete_shards():
    shards = Shards(slow=0.05)
    with pytest.raises(KeyboardInterrupt), ShardThreads(shards.shard, waiting=2) as out:
        for shard in range(2):
            out.start(shard)
            out.append(lambda i: None)
            out.end()
        out.start(2)
        out.append(lambda i: None)
        raise KeyboardInterrupt
    assert sorted(shards.events, key=str) == [(2, "Interrupted"), 0, 1]


@pytest.mark.parametrize(
    "knobs", mostly_slow([{"n_workers": 5}, {"n_workers": 1}, {"open": 1}, {"open": 8}, {"behind": 1}])
)
def test_threads_do_not_change_the_bytes(photos, tmp_path, monkeypatch, knobs):
    monkeypatch.setattr(layer_shard, "BLOCK_BYTES", 6000)
    vit = MicroVit(resize="flex", n_patches=25)
    whole = contents(recording(photos, tmp_path / "whole", vit=vit, layers=[0, 1, 3]).run(False))
    monkeypatch.setattr(shard_threads, "OPEN_SHARDS", knobs.pop("open", OPEN_SHARDS))
    monkeypatch.setattr(recording_pass, "BATCHES_BEHIND", knobs.pop("behind", recording_pass.BATCHES_BEHIND))
    assert contents(recording(photos, tmp_path / "other", vit=vit, layers=[0, 1, 3], **knobs).run(False)) == whole


@pytest.mark.parametrize("step", ["_write", "_hash", "_sum", "commit"])
@pytest.mark.parametrize("saved", mostly_slow([True, False]))
def test_a_writer_that_fails_while_the_next_shard_is_filled_loses_nothing(photos, tmp_path, monkeypatch, step, saved):
    """Shard 1 fails once shard 2 has images; shard 0 is kept, and the resumed recording has the bytes of an undisturbed one."""
    monkeypatch.setattr(layer_shard, "BLOCK_BYTES", 6000)
    whole = contents(recording(photos, tmp_path / "whole").run(False))
    next_filled, original, add = threading.Event(), getattr(LayerShard, step), ShardWriter.add
    first = []

    def failing(self, *args):
        if self.path.name == "000001.tar" and (step == "commit" or len(self.rows) > 4):
            assert next_filled.wait(10)
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, *args)

    def noting(self, index, *args):
        add(self, index, *args)
        if index >= 15:
            next_filled.set()
        first.append(index)

    with monkeypatch.context() as patch:
        patch.setattr(LayerShard, step, failing)
        patch.setattr(ShardWriter, "add", noting)
        patch.setattr(ShardWriter, "SAVE_EVERY_S", 0 if saved else 30)
        stopped = recording(photos, tmp_path / "stopped")
        with pytest.raises(OSError, match=r"is full .*of 4 shards are left: make room and run the same command again"):
            stopped.run(False)
    root = stopped.directory()
    assert not stopped.recorded() and (root / "shard-000000.json").is_file()
    assert not (root / "shard-000001.json").exists() and not (root / "layer-01/000001.tar").exists()
    assert not list(root.rglob("*.tmp")) and bool(list(root.rglob("*.part"))) == saved
    assert contents(recording(photos, tmp_path / "stopped").run(False)) == whole


def test_a_blocked_writer_stops_decoding_and_computing(photos, tmp_path, monkeypatch):
    """Of batches of one image: 3 ahead and one on its way, 2 uploaded, one at hand, 4 computed and one to be handed over."""
    go, add, opened, read = threading.Event(), ShardWriter.add, [], FolderImages.open
    monkeypatch.setattr(ShardWriter, "add", lambda self, *args: (go.wait(10), add(self, *args)))
    monkeypatch.setattr(FolderImages, "open", lambda self, index: (opened.append(index), read(self, index))[1])
    running = threading.Thread(target=recording(photos, tmp_path, batch_size=1).run, args=(False,))
    running.start()
    before = -1
    while before != len(opened) or not opened:
        before = len(opened)
        time.sleep(0.2)
    assert 8 < len(opened) <= 12
    go.set()
    running.join()
    assert len(opened) == N
