"""Interrupted and divided recordings equal an undisturbed one."""

import signal

import pytest
from PIL import Image
from vits.micro_recordings import N, contents, recording

from saev.images import FolderImages
from saev.shards import ActivationStore, layer_shard
from saev.shards.shard_writer import ShardWriter
from saev.vits.backbone import Backbone


@pytest.mark.parametrize("after", [0, 1, 4, 6])
def test_resumed_equals_uninterrupted(photos, tmp_path, monkeypatch, after):
    whole = recording(photos, tmp_path / "whole").run(False)
    calls, forward = [], Backbone.forward

    def failing(self, *args):
        calls.append(1)
        if len(calls) > after:
            raise RuntimeError("the machine is gone")
        return forward(self, *args)

    monkeypatch.setattr(Backbone, "forward", failing)
    stopped = recording(photos, tmp_path / "stopped")
    with pytest.raises(RuntimeError, match="the machine is gone"):
        stopped.run(False)
    assert not stopped.recorded()
    assert not list(stopped.directory().rglob("*.part")), "no half shard is left"
    with pytest.raises(ValueError, match="incomplete"):
        ActivationStore(stopped.directory())
    monkeypatch.setattr(Backbone, "forward", forward)
    assert contents(recording(photos, tmp_path / "stopped").run(False)) == contents(whole)


@pytest.mark.parametrize("after", [3, 5, 7])
def test_a_shard_is_continued_where_it_was_saved(photos, tmp_path, monkeypatch, after):
    """One shard of 23 images, saved at every block of two; the images before the last save are not read again."""
    monkeypatch.setattr(layer_shard, "BLOCK_BYTES", 6000)
    whole = recording(photos, tmp_path / "whole", shard_mb=1).run(False)
    monkeypatch.setattr(ShardWriter, "SAVE_EVERY_S", 0)
    calls, forward = [], Backbone.forward

    def failing(self, *args):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return forward(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "forward", failing)
        stopped = recording(photos, tmp_path / "stopped", shard_mb=1)
        with pytest.raises(KeyboardInterrupt):
            stopped.run(False)
    assert not stopped.recorded() and len(list(stopped.directory().rglob("*.part"))) == 2
    opened, read = [], FolderImages.open
    monkeypatch.setattr(FolderImages, "open", lambda self, index: (opened.append(index), read(self, index))[1])
    assert contents(recording(photos, tmp_path / "stopped", shard_mb=1).run(False)) == contents(whole)
    assert len(opened) <= N - 3 * after + 6, "at most a batch that was not written, and a block and its batch"


def test_parts_make_the_same_dataset(photos, tmp_path, capfd):
    whole = recording(photos, tmp_path / "whole").run(False)
    for part in ("2/3", "0/3"):
        recording(photos, tmp_path / "parts", part=part).run()
        assert "complete once the other parts are" in " ".join(capfd.readouterr().err.split())
    assert not recording(photos, tmp_path / "parts").recorded()
    assert contents(recording(photos, tmp_path / "parts", part="1/3").run(False)) == contents(whole)


class Interrupting(FolderImages):
    """Presses Ctrl-C while the twelfth image is being read."""

    def open(self, index: int) -> Image.Image:
        self.opened = getattr(self, "opened", 0) + 1
        if self.opened == 12:
            signal.raise_signal(signal.SIGINT)
        return super().open(index)


def test_ctrl_c_leaves_a_resumable_recording(photos, tmp_path, capfd):
    whole = recording(photos, tmp_path / "whole").run(False)
    images = Interrupting(root=str(photos), name="birds")
    with pytest.raises(KeyboardInterrupt):
        # one image is read ahead at a time, so that the first shard is done when it happens
        recording(photos, tmp_path / "cut", images=images, n_workers=1, batch_size=1).run()
    said = " ".join(capfd.readouterr().err.split())
    assert "Interrupted." in said and "of 4 shards are left; run the same command again to resume" in said
    later = recording(photos, tmp_path / "cut", batch_size=1)
    assert not later.recorded() and not list(later.directory().rglob("*.part"))
    assert contents(later.run(False)).keys() == contents(whole).keys()
    assert ActivationStore(later.directory()).manifest.n_tokens == N * 16
