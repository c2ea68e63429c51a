"""Recordings of generated photos with the micro ViT: what is stored, what stops, what resumes."""

import hashlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from saev.images import FolderImages
from saev.shards import ActivationStore
from saev.vits import MicroVit, Recording, recorder
from saev.vits.backbone import Backbone

N = 23
SMALL = {"shard_mb": 7 * 16 * 32 * 2 / 1e6, "batch_size": 3, "n_workers": 2, "device": "cpu"}  # 7 images a shard


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(N):
        path = root / ("owl" if i % 2 else "wren") / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50 + i, 3), dtype=np.uint8)).save(path)
    return root


def recording(photos: Path, root: Path, **knobs) -> Recording:
    fields = {
        "images": FolderImages(root=str(photos), name="birds"),
        "vit": MicroVit(),
        "layers": [1, -1],
        "root": root,
    }
    return Recording(**fields | SMALL | knobs)


def contents(directory: Path) -> dict[str, str]:
    files = [p for p in sorted(directory.rglob("*")) if p.is_file()]
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_what_is_stored_is_what_the_backbone_says(photos, tmp_path):
    directory = recording(photos, tmp_path).run(progress=False)
    store = ActivationStore(directory)
    assert (store.layers, store.d_model, store.manifest.roles) == ((1, 3), 32, {"patches": 16})
    table, images, backbone = store.examples, FolderImages(root=str(photos)), MicroVit().load()
    assert sorted(table["key"]) == images.paths() != list(table["key"]), "every image once, shuffled"
    for place in range(N):
        row = table.row(place, named=True)
        at = images.paths().index(row["key"])
        picture = images.open(at)
        assert (row["width"], row["height"], row["grid_h"], row["grid_w"]) == (*picture.size, 4, 4)
        assert row["class"] == row["key"].split("/")[0] and row["n_tokens"] == 16 and row["error"] is None
        with torch.no_grad():
            acts = backbone(backbone.transform(picture)[None], [1, 3])
        for layer in (1, 3):
            np.testing.assert_allclose(store.read(layer, place), acts[layer][0, 1:].numpy(), atol=2e-3)


def test_roles_are_stored_in_order_and_others_left_out(photos, tmp_path):
    vit = MicroVit(registers=2)
    everything = recording(photos, tmp_path, vit=vit, tokens=["patches", "registers", "cls"], dtype="float32").run(
        False
    )
    special = recording(photos, tmp_path, vit=vit, tokens=["registers"], dtype="float32").run(False)
    whole, some = ActivationStore(everything), ActivationStore(special)
    assert list(whole.manifest.roles.items()) == [("cls", 1), ("registers", 2), ("patches", 16)]
    assert some.manifest.roles == {"registers": 2}
    assert np.array_equal(whole.read(1, 5)[1:3], some.read(1, 5))


@pytest.mark.parametrize("hook", ["resid_pre", "attn", "mlp", "norm"])
def test_hooks_are_passed_on(photos, tmp_path, hook):
    store = ActivationStore(recording(photos, tmp_path, hook=hook, order="sorted", dtype="float32").run(False))
    images, backbone = FolderImages(root=str(photos)), MicroVit().load()
    with torch.no_grad():
        expected = backbone(backbone.transform(images.open(0))[None], [1], hook)[1][0, 1:]
    np.testing.assert_allclose(store.read(1, 0), expected.numpy(), atol=1e-5)


def test_a_complete_recording_is_returned_at_once(photos, tmp_path, monkeypatch):
    directory = recording(photos, tmp_path).run(False)
    before = contents(directory)
    monkeypatch.setattr(MicroVit, "load", None)
    again = recording(photos, tmp_path, batch_size=5)
    assert again.complete() and again.run(False) == directory
    assert contents(directory) == before


def test_the_directory_is_named_by_meaning_alone(photos, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    base = recording(photos, tmp_path).directory()
    assert base.parent == tmp_path and base.name.startswith("birds-micro-") and len(base.name.rsplit("-", 1)[1]) == 8
    same = [
        recording(moved, tmp_path),
        recording(photos, tmp_path, layers=[3, 1], batch_size=9, n_workers=1, part="1/2"),
    ]
    assert {r.directory() for r in same} == {base}
    changes = [
        {"layers": [1]},
        {"layers": 1, "hook": "mlp"},
        {"tokens": ["cls"]},
        {"dtype": "float32"},
        {"order": "sorted"},
        {"seed": 1},
        {"vit": MicroVit(seed=1)},
    ]
    names = [recording(photos, tmp_path, **change).directory().name for change in changes]
    assert len({base.name, *names}) == len(changes) + 1
    (moved / "owl" / "new.png").write_bytes((moved / "owl" / "01.png").read_bytes())
    assert recording(moved, tmp_path).directory() != base, "another image"


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
    assert not stopped.complete()
    assert not list(stopped.directory().rglob("*.part")), "no half shard is left"
    with pytest.raises(ValueError, match="incomplete"):
        ActivationStore(stopped.directory())
    monkeypatch.setattr(Backbone, "forward", forward)
    assert contents(recording(photos, tmp_path / "stopped").run(False)) == contents(whole)


def test_parts_make_the_same_dataset(photos, tmp_path, capfd):
    whole = recording(photos, tmp_path / "whole").run(False)
    for part in ("2/3", "0/3"):
        recording(photos, tmp_path / "parts", part=part).run()
        assert "complete when the other parts are" in " ".join(capfd.readouterr().err.split())
    assert not recording(photos, tmp_path / "parts").complete()
    assert contents(recording(photos, tmp_path / "parts", part="1/3").run(False)) == contents(whole)


class Interrupting(FolderImages):
    """Presses Ctrl-C while the twelfth image is being read."""

    def open(self, index: int) -> Image.Image:
        self.opened = getattr(self, "opened", 0) + 1
        if self.opened == 12:
            signal.raise_signal(signal.SIGINT)
        return super().open(index)


def test_ctrl_c_leaves_what_can_be_gone_on_with(photos, tmp_path, capfd):
    whole = recording(photos, tmp_path / "whole").run(False)
    images = Interrupting(root=str(photos), name="birds")
    with pytest.raises(KeyboardInterrupt):
        # one image is read ahead at a time, so that the first shard is done when it happens
        recording(photos, tmp_path / "cut", images=images, n_workers=1, batch_size=1).run()
    said = " ".join(capfd.readouterr().err.split())
    assert "Interrupted." in said and "of 4 shards are left; the same command goes on from there" in said
    later = recording(photos, tmp_path / "cut", batch_size=1)
    assert not later.complete() and not list(later.directory().rglob("*.part"))
    assert contents(later.run(False)).keys() == contents(whole).keys()
    assert ActivationStore(later.directory()).manifest.n_tokens == N * 16


SLOW = """
import sys, time
from saev.images import FolderImages
from saev.vits import MicroVit, Recording

class Slow(FolderImages):
    def open(self, index):
        time.sleep(0.1)
        return super().open(index)

Recording(images=Slow(root=sys.argv[1], name="birds"), vit=MicroVit(), layers=[1, -1], root=sys.argv[2],
          shard_mb=float(sys.argv[3]), batch_size=3, n_workers=1, device="cpu").run()
"""


def test_a_killed_recording_goes_on_and_equals_an_undisturbed_one(photos, tmp_path):
    whole = recording(photos, tmp_path / "whole").run(False)
    later = recording(photos, tmp_path / "cut")
    args = [sys.executable, "-c", SLOW, str(photos), str(tmp_path / "cut"), str(SMALL["shard_mb"])]
    with subprocess.Popen(args, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        while process.poll() is None and not list(later.directory().glob("shard-*.json")):
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()[1]
        process.kill()
    assert not later.complete()
    found, expected = contents(later.run(False)), contents(whole)
    assert {name: found.get(name) for name in expected} == expected


def test_unreadable_images_are_skipped_and_listed(photos, tmp_path, capfd):
    mixed = tmp_path / "mixed"
    shutil.copytree(photos, mixed)
    (mixed / "owl" / "broken.jpg").write_bytes(b"no picture")
    cut = (mixed / "wren" / "02.png").read_bytes()
    (mixed / "wren" / "02.png").write_bytes(cut[: len(cut) // 2])
    store = ActivationStore(recording(mixed, tmp_path / "acts").run())
    said = " ".join(capfd.readouterr().err.split())
    assert "Skipped 2 unreadable images" in said and "owl/broken.jpg" in said and "wren/02.png" in said
    bad = store.examples.filter(pl.col("error").is_not_null())
    assert sorted(bad["key"]) == ["owl/broken.jpg", "wren/02.png"]
    assert bad["n_tokens"].to_list() == [0, 0] and bad["width"].to_list() == [None, None]
    assert store.manifest.n_tokens == (N - 1) * 16 and len(store.examples) == N + 1
    good = store.examples.filter(pl.col("error").is_null())["index"]
    assert all(store.read(1, i).shape == (16, 32) for i in good)


def test_on_error_stop_names_the_image(photos, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(photos, mixed)
    (mixed / "owl" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"owl/broken\.jpg.*record\.on_error=skip"):
        recording(mixed, tmp_path / "acts", on_error="stop").run(False)


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "bad").mkdir()
    for i in range(4):
        (tmp_path / "bad" / f"{i}.jpg").write_bytes(b"no picture")
    stopped = recording(tmp_path / "bad", tmp_path / "acts")
    with pytest.raises(ValueError, match=r"none of the 4 images could be read"):
        stopped.run(False)
    assert not stopped.complete()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_values_that_cannot_be_stored_stop_with_the_remedy(photos, tmp_path, monkeypatch, value):
    forward = Backbone.forward

    def spoilt(self, *args):
        found = forward(self, *args)
        found[3][0, 5, 7] = value
        return found

    monkeypatch.setattr(Backbone, "forward", spoilt)
    stopped = recording(photos, tmp_path)
    with pytest.raises(
        ValueError, match=r"layer 3 of '.*png'.*record\.dtype=float32" if value == 1e5 else "layer 3 of"
    ):
        stopped.run(False)
    assert not stopped.complete() and not list(tmp_path.rglob("*.tar"))
    if value == 1e5:
        store = ActivationStore(recording(photos, tmp_path, dtype="float32").run(False))
        assert store.read(3, 0)[4, 7] == 1e5


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"layers": [4]}, r"layer=4 is out of range: vit=micro has 4 blocks"),
        ({"layers": []}, r"layer is not set"),
        ({"tokens": ["registers"]}, r"record\.tokens=\[registers\]: vit=micro has cls, patches"),
        ({"tokens": []}, r"record\.tokens=\[\]"),
        ({"hook": "middle"}, r"record\.hook=middle.*resid_post"),
        ({"dtype": "float64"}, r"record\.dtype=float64.*float16, float32"),
        ({"order": "random"}, r"record\.order=random.*shuffled"),
        ({"on_error": "ignore"}, r"record\.on_error=ignore.*skip, stop"),
        ({"autocast": True}, r"record\.autocast=True.*bfloat16"),
        ({"part": "3/3"}, r"record\.part=3/3.*0/8"),
        ({"part": "x"}, r"record\.part=x"),
        ({"batch_size": 0}, r"record\.batch_size=0"),
        ({"images": FolderImages(root="/nowhere")}, r"images\.root=/nowhere is not a folder"),
    ],
)
def test_check_names_key_value_and_remedy(photos, tmp_path, knobs, says):
    with pytest.raises(ValueError, match=says):
        recording(photos, tmp_path / "acts", **knobs).check()
    with pytest.raises(ValueError, match=says):
        recording(photos, tmp_path / "acts", **knobs).run(False)
    assert not list((tmp_path / "acts").rglob("*.tar"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_gpu_that_is_not_there_is_named(photos, tmp_path):
    with pytest.raises(ValueError, match=r"record\.device=cuda.*record\.device=cpu"):
        recording(photos, tmp_path, device="cuda").check()


def test_missing_images_and_weights_are_told_at_once(tmp_path):
    from saev.vits import TimmVit

    vit = TimmVit(name="dinov3", arch="vit_small_patch16_dinov3.lvd1689m", checkpoint="/nowhere.pth")
    with pytest.raises(ValueError, match=r"(?s)vit\.checkpoint=/nowhere\.pth.*images\.root=/nothing"):
        recording(Path("/nothing"), tmp_path, vit=vit).run(False)


def test_a_disk_that_is_too_small_is_refused_before_the_start(photos, tmp_path, monkeypatch):
    needed = recording(photos, tmp_path).plan.n_bytes
    disk = {"free": needed - 1}
    monkeypatch.setattr(recorder.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, disk["free"]))
    with pytest.raises(ValueError, match=r"record\.root=.* GB free.*record\.dtype=float16"):
        recording(photos, tmp_path).run(False)
    disk["free"] = needed
    directory = recording(photos, tmp_path).run(False)
    stored = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
    assert stored < 1.5 * needed and needed < 1.5 * stored, "the estimate is near the truth"


def test_an_output_that_cannot_be_written_is_refused(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"record\.root=.*file.* cannot be written"):
        recording(photos, tmp_path / "file" / "acts").run(False)


def test_batch_size_and_threads_hardly_change_the_values(photos, tmp_path):
    one = ActivationStore(recording(photos, tmp_path / "a", dtype="float32").run(False))
    two = ActivationStore(recording(photos, tmp_path / "b", dtype="float32", batch_size=64, n_workers=1).run(False))
    for place in range(N):
        np.testing.assert_allclose(one.read(3, place), two.read(3, place), atol=1e-5)
