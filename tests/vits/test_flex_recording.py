"""Recordings of pictures of their own shape, of eight bits a value, and with labels: grids, order, parts, resuming."""

import numpy as np
import polars as pl
import pytest
import torch
from conftest import mostly_slow
from PIL import Image
from vits.masked import MaskedPhotos
from vits.micro_recordings import SMALL, contents, recording

from saev.images import FolderImages
from saev.shards import ActivationStore
from saev.vits import MicroVit
from saev.vits.backbone import Backbone

SIZES = [(40, 40), (64, 32), (32, 64), (90, 30), (33, 41), (50, 40), (7, 200)]
FLEX = MicroVit(resize="flex", n_patches=20)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Twenty pictures of seven shapes."""
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for i in range(20):
        width, height = SIZES[i % len(SIZES)]
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / f"{i:02d}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_each_picture_keeps_its_own_grid_and_its_place(shapes, tmp_path, fit):
    vit = MicroVit(resize="flex", n_patches=20, fit=fit)
    store = ActivationStore(recording(shapes, tmp_path, vit=vit, tokens=["cls", "patches"], dtype="float32").run(False))
    assert store.manifest.roles == {"cls": 1, "patches": -1} and store.manifest.meaning["grid"] is None
    images, backbone = FolderImages(root=str(shapes)), vit.load()
    table = store.examples
    assert sorted(table["key"]) == images.paths() != table["key"].to_list(), "shuffled"
    assert len({(r["grid_h"], r["grid_w"]) for r in table.iter_rows(named=True)}) > 4
    for place, row in enumerate(table.iter_rows(named=True)):
        picture = images.open(images.paths().index(row["key"]))
        assert (row["grid_h"], row["grid_w"]) == vit.shape().grid_of(*picture.size)
        assert row["n_tokens"] == 1 + row["grid_h"] * row["grid_w"] <= 21
        with torch.no_grad():
            acts = backbone(backbone.transform(picture)[None], [3])[3][0]
        np.testing.assert_allclose(store.read(3, place), acts.numpy(), atol=1e-5)
    assert store.manifest.n_tokens == table["n_tokens"].sum()


@pytest.mark.slow
def test_pictures_of_the_fixed_grid_are_recorded_as_fixed_ones(tmp_path):
    root, rng = tmp_path / "squares", np.random.default_rng(0)
    root.mkdir()
    for i in range(9):
        Image.fromarray(rng.integers(0, 256, (40 + i, 40 + i, 3), dtype=np.uint8)).save(root / f"{i}.png")
    fixed = recording(root, tmp_path / "acts", dtype="float32").run(False)
    for fit in ("stretch", "crop", "pad"):
        vit = MicroVit(resize="flex", n_patches=16, fit=fit)
        flex = recording(root, tmp_path / "acts", vit=vit, dtype="float32").run(False)
        for layer in (1, 3):
            for place in range(9):
                assert np.array_equal(
                    ActivationStore(flex).read(layer, place), ActivationStore(fixed).read(layer, place)
                )


def test_pictures_of_one_grid_share_forward_passes(shapes, tmp_path, monkeypatch):
    seen, forward = [], Backbone.forward

    def noting(self, images, *args):
        seen.append(tuple(images.shape))
        return forward(self, images, *args)

    monkeypatch.setattr(Backbone, "forward", noting)
    recording(shapes, tmp_path, vit=FLEX, batch_size=2, shard_mb=1).run(False)
    assert sum(shape[0] for shape in seen) == 20 and max(shape[0] for shape in seen) == 2
    assert len(seen) < 16, "twenty pictures of seven shapes in a random order would take nearly twenty passes"


@pytest.mark.slow
def test_the_disk_estimate_is_an_upper_bound(shapes, tmp_path):
    for dtype, row_bytes in {"float16": 64, "float32": 128, "int8": 36}.items():
        plan = recording(shapes, tmp_path, vit=FLEX, dtype=dtype).plan
        assert (plan.n_tokens, plan.image_bytes) == (20, 20 * row_bytes)
        directory = recording(shapes, tmp_path, vit=FLEX, dtype=dtype).run(False)
        tars = sum(path.stat().st_size for path in directory.rglob("*.tar"))
        slack = 10_240 * len(list(directory.rglob("*.tar")))  # what tar pads a file to
        assert tars < plan.n_bytes + slack


KINDS = {
    "flex": {"vit": FLEX},
    "int8": {"dtype": "int8"},
    "labels": {"labels": True},
    "all three": {"vit": FLEX, "dtype": "int8", "labels": True},
}


def of_kind(shapes, root, kind: str, **knobs):
    fields = dict(KINDS[kind])
    images = MaskedPhotos if fields.pop("labels", False) else FolderImages
    return recording(shapes, root, images=images(root=str(shapes), name="shapes"), **fields | knobs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_byte_identical_to_one_whole_recording(shapes, tmp_path, kind):
    whole = of_kind(shapes, tmp_path / "whole", kind).run(False)
    for part in ("2/3", "0/3", "1/3"):
        last = of_kind(shapes, tmp_path / "parts", kind, part=part).run(False)
    assert contents(last) == contents(whole) and last.name == whole.name


@pytest.mark.slow
@pytest.mark.parametrize("kind", mostly_slow(KINDS))
def test_resumed_equals_uninterrupted(shapes, tmp_path, monkeypatch, kind):
    whole = of_kind(shapes, tmp_path / "whole", kind).run(False)
    calls, forward = [], Backbone.forward

    def failing(self, *args):
        calls.append(1)
        if len(calls) > 12:
            raise RuntimeError("the machine is gone")
        return forward(self, *args)

    monkeypatch.setattr(Backbone, "forward", failing)
    small = {"batch_size": 1, "shard_mb": SMALL["shard_mb"] / 3}
    with pytest.raises(RuntimeError, match="gone"):
        of_kind(shapes, tmp_path / "cut", kind, **small).run(False)
    monkeypatch.setattr(Backbone, "forward", forward)
    again = of_kind(shapes, tmp_path / "cut", kind, **small).run(False)
    assert contents(again) == contents(of_kind(shapes, tmp_path / "small", kind, **small).run(False))
    assert again.name == whole.name


def test_int8_is_calibrated_on_what_can_be_read_and_is_near_the_truth(shapes, tmp_path):
    for i in range(4):
        path = tmp_path / "mixed" / f"broken{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no picture")
    for path in shapes.iterdir():
        (tmp_path / "mixed" / path.name).write_bytes(path.read_bytes())
    exact = ActivationStore(recording(tmp_path / "mixed", tmp_path / "a", dtype="float32").run(False))
    small = ActivationStore(recording(tmp_path / "mixed", tmp_path / "a", dtype="int8").run(False))
    good = exact.examples.filter(pl.col("error").is_null())["index"].to_list()
    assert len(good) == 20
    one, two = (np.concatenate([store.read(3, place) for place in good]) for store in (exact, small))
    assert ((one - two) ** 2).sum() / ((one - one.mean(0)) ** 2).sum() < 1e-3
    sizes = [sum(p.stat().st_size for p in store.root.rglob("*.tar")) for store in (exact, small)]
    assert sizes[1] < 0.6 * sizes[0]


def test_nothing_to_calibrate_with_is_an_error(tmp_path):
    (tmp_path / "bad").mkdir()
    for i in range(3):
        (tmp_path / "bad" / f"{i}.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"none of the 3 images could be read; first error: \d\.jpg"):
        recording(tmp_path / "bad", tmp_path / "acts", dtype="int8").run(False)
