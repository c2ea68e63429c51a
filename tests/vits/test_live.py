"""Training without storing: the tokens, moments, image numbers and held-out images of a recording, and an exact resume."""

import logging

import numpy as np
import pytest
from vits.micro_recordings import recording

from datamodules import ActivationDataModule
from saev.images import FolderImages
from saev.shards import ActivationStore, open_stream
from saev.vits import MicroVit
from saev.vits.live import LiveStore


@pytest.fixture(scope="module")
def stored(photos, tmp_path_factory):
    made = recording(photos, tmp_path_factory.mktemp("live"), tokens=["cls", "patches"])
    return made, ActivationStore(made.run(progress=False))


def tokens_of(store, layer):
    stream = open_stream(store, layer, 10_000, tokens="all")
    return next(stream.batches(0, 1))


@pytest.mark.parametrize("batch_size", [3, 8])
def test_tokens_are_those_of_a_recording(stored, photos, tmp_path, batch_size):
    """To the rounding of float16: passes of another number of images may round otherwise."""
    live = LiveStore(recording(photos, tmp_path, tokens=["cls", "patches"], batch_size=batch_size))
    for layer in (1, 3):
        one, other = tokens_of(live, layer), tokens_of(stored[1], layer)
        assert one["acts"].dtype == np.float16 and all(np.array_equal(one[k], other[k]) for k in ("example", "token"))
        np.testing.assert_allclose(one["acts"].astype(float), other["acts"].astype(float), rtol=2**-10, atol=2e-4)
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_images_and_moments_are_those_of_a_recording(stored):
    live = LiveStore(stored[0])
    assert live.examples["key"].equals(stored[1].examples["key"]) and live.name == stored[1].name
    assert live.examples.columns == ["key", "path", "class"]
    for tokens in ("cls", "patches", "all"):
        one, other = live.moments(3, tokens), stored[1].moments(3, tokens)
        assert one.count == other.count and one.scale == pytest.approx(other.scale, rel=1e-3)
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-3, atol=1e-3)


def test_the_same_images_are_held_out(stored):
    made, store = stored
    split = {"layer": 1, "batch_size": 16, "val_fraction": 0.3}
    modules = [
        ActivationDataModule(None, recording=made, reader="live", **split),
        ActivationDataModule(str(store.root), **split),
    ]
    for module in modules:
        module.prepare_data()
        module.setup("fit")
    live, read = modules
    assert live.val_examples.tolist() == read.val_examples.tolist() and len(live.val_examples) == 7
    assert live.train_examples.tolist() == read.train_examples.tolist()
    assert sum(len(b["acts"]) for b in live.val_dataloader()) == 7 * 16
    assert live.state_dict()["reader"] == "live"
    with pytest.raises(ValueError, match="the checkpoint's stream had dataset="):
        read.load_state_dict(live.state_dict())


def test_an_unreadable_image_is_replaced_and_named(photos, tmp_path, caplog):
    import shutil

    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "owl" / "03.png").write_bytes(b"no image")
    images = FolderImages(root=str(tmp_path / "photos"), name="birds")
    live = LiveStore(recording(photos, tmp_path, images=images))
    key = live.examples["key"].to_list()
    broken = key.index("owl/03.png")
    with caplog.at_level(logging.WARNING):
        computed = list(live.compute(1, np.arange(len(key))))
        list(live.compute(1, np.arange(len(key))))
    assert len(computed) == len(key) and caplog.text.count("another image takes its place") == 1
    mates = range(broken // 3 * 3, broken // 3 * 3 + 3)
    assert any(np.array_equal(computed[broken], computed[i]) for i in mates if i != broken)
    with pytest.raises(ValueError, match="none of 1 images could be read"):
        list(live.compute(1, np.array([broken])))
    with pytest.raises(ValueError, match=r"owl/03.png .* cannot be read"):
        list(LiveStore(recording(photos, tmp_path, images=images, on_error="stop")).compute(1, np.array([broken])))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vit": MicroVit(resize="flex")}, "with vit.resize=flex images differ in their number of tokens"),
        ({"dtype": "int8"}, "nothing is stored, so record.dtype=int8 saves nothing"),
        ({"decoding": "processes"}, r"decodes in threads.*use record\.decoding=threads"),
        ({"layers": 9}, "layer=9 is out of range"),
    ],
)
def test_what_cannot_be_computed_is_refused(photos, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        LiveStore(recording(photos, tmp_path, **settings))


def test_threads_compute_as_one(stored):
    """Guards against the hooks of one thread's pass in another's, e.g. of validation beside training."""
    from concurrent.futures import ThreadPoolExecutor

    live = LiveStore(stored[0])
    alone = {layer: list(live.compute(layer, np.arange(23))) for layer in (1, 3)}
    with ThreadPoolExecutor(4) as pool:
        for layer, computed in pool.map(lambda layer: (layer, list(live.compute(layer, np.arange(23)))), [1, 3] * 10):
            assert all(np.array_equal(one, other) for one, other in zip(computed, alone[layer], strict=True))


def test_labels_are_not_computed(photos, tmp_path):
    made = recording(photos, tmp_path)
    module = ActivationDataModule(None, 1, 16, made, reader="live", ignore_labels=(0,))
    with pytest.raises(ValueError, match="has no patch labels"):
        module.setup("fit")
    with pytest.raises(ValueError, match=r"datamodule\.reader=live: dataset=/x is recorded already"):
        ActivationDataModule("/x", 1, 16, reader="live")
