"""What is stored, what is skipped, what stops a recording."""

import shutil

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from vits.micro_recordings import N, recording

from saev.images import FolderImages
from saev.shards import ActivationStore
from saev.vits import MicroVit
from saev.vits.backbone import Backbone


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


def test_greys_of_other_types_and_images_of_one_colour_are_reported_once(tmp_path, capfd):
    ramp = np.tile(np.linspace(0, 1, 40), (40, 1))
    values = {
        "a": (ramp * 4095).astype("u2"),
        "b": (ramp * 4000).astype("u2"),
        "c": ramp.astype("f4"),
        "d": np.uint8(ramp),
    }
    (tmp_path / "grey").mkdir()
    for name, pixels in (values | {"black": np.zeros((40, 40), np.uint8)}).items():
        Image.fromarray(pixels).save(tmp_path / f"grey/{name}.tif")
    recording(tmp_path / "grey", tmp_path / "acts").run()
    said = " ".join(capfd.readouterr().err.split())
    assert "2 grey images of mode I;16 read as 0 (black) to 4095 (white)" in said
    assert "1 grey image of mode F read as 0 (black) to 1 (white)" in said
    assert "Recorded 1 images of one colour" in said and "black.tif" in said


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
    assert not stopped.recorded()


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
        ValueError, match=r"'.*png'.*record\.dtype=float32" if value == 1e5 else r"'.*png' has NaN or infinite"
    ):
        stopped.run(False)
    assert not stopped.recorded() and not list(tmp_path.rglob("*.tar"))
    if value == 1e5:
        store = ActivationStore(recording(photos, tmp_path, dtype="float32").run(False))
        assert store.read(3, 0)[4, 7] == 1e5


def test_batch_size_and_threads_hardly_change_the_values(photos, tmp_path):
    one = ActivationStore(recording(photos, tmp_path / "a", dtype="float32").run(False))
    two = ActivationStore(recording(photos, tmp_path / "b", dtype="float32", batch_size=64, n_workers=1).run(False))
    for place in range(N):
        np.testing.assert_allclose(one.read(3, place), two.read(3, place), atol=1e-5)
