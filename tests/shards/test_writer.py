"""What the writer is given is what it keeps: labels, codecs, and values out of buffers that are used again."""

import json

import numpy as np
import pytest
from conftest import mostly_slow

from saev.shards import ActivationStore, Manifest, RecordingWriter
from saev.shards.codec import Codec

MEANING = {"images": {"name": "x"}}
LABELS = {"method": "majority", "classes": {3: "sky"}}  # JSON makes the key a string


def writer(root, **knobs):
    return RecordingWriter(root, **{"meaning": MEANING, "n_examples": 4, "examples_per_shard": 2, "layers": [5, 2],
                                    "roles": {"cls": 1, "patches": -1}, "d_model": 8} | knobs)  # fmt: skip


def fill(writing, big=False):
    """Images of 3, 4, 5, 6 tokens (of megabytes each, if big), all out of the same buffer."""
    buffer = np.empty((6, writing.manifest.d_model), np.float16)
    for shard in writing.pending():
        with writing.shard(shard) as out:
            for i in writing.examples_of(shard):
                buffer[:] = i
                acts = {2: buffer[: 3 + i], 5: buffer[: 3 + i]}
                labels, fractions = np.arange(3 + i, dtype=np.uint16) + i, np.full(3 + i, i / 8, np.float16)
                out.add(i, acts, {"path": f"{i}"}, *((labels, fractions) if writing.manifest.labels else ()))
                buffer[:], labels[:], fractions[:] = -1, 9, 9
    return ActivationStore(writing.finish())


@pytest.mark.parametrize("d_model", mostly_slow([8, 1 << 19]))
def test_buffers_may_be_used_again(tmp_path, d_model):
    """Also where one image is larger than the blocks that are written together."""
    store = fill(writer(tmp_path / "data", d_model=d_model))
    for i in range(4):
        assert store.read(5, i).shape == (3 + i, d_model) and (store.read(5, i) == i).all()
    assert not store.verify()


def test_labels_of_images_that_differ_in_their_grid(tmp_path):
    store = fill(writer(tmp_path / "data", labels=LABELS))
    expected = np.concatenate([np.arange(3 + i) + i for i in range(4)])
    np.testing.assert_array_equal(store.token_labels, expected)
    fractions = np.load(tmp_path / "data" / "token_fractions.npy")
    np.testing.assert_array_equal(fractions, np.repeat(np.arange(4) / 8, [3, 4, 5, 6]))
    assert fractions.dtype == np.float16
    assert store.manifest.labels == {"method": "majority", "classes": {"3": "sky"}}


def test_labels_are_part_of_what_the_contents_are(tmp_path):
    with_labels = fill(writer(tmp_path / "labels", labels=LABELS)).manifest
    without = fill(writer(tmp_path / "none")).manifest
    assert with_labels.fingerprint != without.fingerprint
    assert {f["sha256"] for f in with_labels.shards} == {f["sha256"] for f in without.shards}


def test_labels_for_all_images_or_for_none(tmp_path):
    acts = {layer: np.zeros((2, 8), np.float16) for layer in (2, 5)}
    labels, fractions = np.zeros(2, np.uint16), np.zeros(2, np.float16)
    for number, (knobs, given) in enumerate([({}, (labels, fractions)), ({"labels": LABELS}, ())]):
        with (
            pytest.raises(AssertionError, match="labels for all"),
            writer(tmp_path / f"{number}", **knobs).shard(0) as out,
        ):
            out.add(0, acts, {}, *given)


@pytest.mark.parametrize("change", [{"labels": LABELS}, {"dtype": "float32"}, {"roles": {"patches": 4}}, {"layers": [5]},
                                    {"n_examples": 5}, {"d_model": 9}, {"meaning": {}}])  # fmt: skip
def test_another_recording_is_not_resumed(tmp_path, change):
    writer(tmp_path / "data")
    writer(tmp_path / "data")
    with pytest.raises(ValueError, match="beginning of another recording"):
        writer(tmp_path / "data", **change)


def test_codecs_given_or_calibrated(tmp_path):
    codec = Codec.int8(np.zeros(8, np.float32), np.full(8, 2, np.float32))
    given = writer(tmp_path / "given", dtype="int8", codecs={2: codec, 5: codec})
    assert not given.needs_calibration
    calibrated = writer(tmp_path / "calibrated", dtype="int8")
    assert calibrated.needs_calibration and not writer(tmp_path / "float").needs_calibration
    acts = {layer: np.random.default_rng(layer).normal(size=(90, 8)).astype(np.float32) for layer in (2, 5)}
    calibrated.calibrate(acts)
    assert not calibrated.needs_calibration and not writer(tmp_path / "calibrated", dtype="int8").needs_calibration
    for writing in (given, calibrated):
        store = fill(writing)
        assert store.read(2, 3).dtype == np.float32
        np.testing.assert_allclose(store.read(2, 3), 3, atol=0.02)
        counts = np.array([3, 4, 5, 6])
        expected = (counts * np.arange(4)).sum() / counts.sum()
        assert store.moments(2).mean == pytest.approx([expected] * 8), "of the values before rounding"


def test_no_shard_without_a_codec(tmp_path):
    with (
        pytest.raises(ValueError, match=r"layer-02/codec.safetensors is missing"),
        writer(tmp_path, dtype="int8").shard(0),
    ):
        pass


def test_errors_name_layer_and_image(tmp_path):
    for value, dtype, message in (
        (np.nan, "float16", "layer-05 of 'b.jpg' has NaN or infinite"),
        (7e4, "float32", r"layer-05 of 'b.jpg' reaches 7e\+04, beyond the range of float16"),
    ):
        bad = np.full((2, 8), value, dtype)
        with pytest.raises(ValueError, match=message), writer(tmp_path / dtype).shard(0) as out:
            out.add(0, {2: bad * 0 + 1 if value == 7e4 else np.ones_like(bad), 5: np.ones_like(bad)}, {"path": "a.jpg"})
            out.add(1, {2: np.ones_like(bad), 5: bad}, {"path": "b.jpg"})
        assert not list((tmp_path / dtype).rglob("*.tar*"))


def test_manifests_of_older_versions_load(tmp_path):
    root = fill(writer(tmp_path / "data")).root
    fields = json.loads((root / "manifest.json").read_text())
    del fields["labels"], fields["files"]
    (root / "manifest.json").write_text(json.dumps(fields))
    old = Manifest.load(root)
    assert old.labels is None and not old.files and not ActivationStore(root).verify()
