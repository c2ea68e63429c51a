"""What is damaged is found by the reader or by the doctor, with the file's name and a remedy; it is never read as if whole."""

import json
import os
import shutil

import numpy as np
import pytest
from recordings import record

from saev.runs.diagnosis import check_path
from saev.shards import ActivationStore, index


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return record(tmp_path_factory.mktemp("corruption") / "data", 12, examples_per_shard=4, dtype="int8", labels=True)


@pytest.fixture
def data(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def fault(data):
    """The only fault that the doctor finds."""
    found = [finding for finding in check_path(data) if finding.fault]
    assert len(found) == 1, found
    assert found[0].remedy, found
    return found[0].found


def read_all(data):
    store = ActivationStore(data)
    return store.token_labels, [store.read(1, example) for example in range(12)]


def test_nothing_is_at_fault(data):
    read_all(data)
    assert not [finding for finding in check_path(data) if finding.fault]


@pytest.mark.parametrize("length", [0, 100, 700, 4000])
def test_a_truncated_tar(data, length):
    path = data / "layer-01" / "000001.tar"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"layer-01/000001\.tar .*restore it or record"):
        read_all(data)
    with pytest.raises(ValueError, match=r"000001\.tar is truncated"):
        index.load(path, 16, "int8", "")
    assert "layer-01/000001.tar differs" in fault(data)


@pytest.mark.parametrize("file", ["layer-01/000002.tar", "layer-01/stats.safetensors", "layer-01/codec.safetensors",
                                  "examples.parquet", "token_labels.npy", "token_fractions.npy"])  # fmt: skip
def test_a_flipped_byte_anywhere(data, file):
    path = data / file
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 1
    path.write_bytes(content)
    assert fault(data) == f"{file} differs from what was recorded (sha256)"


@pytest.mark.parametrize("file", ["layer-01/000000.tar", "layer-01/codec.safetensors", "token_labels.npy"])
def test_a_missing_file(data, file):
    (data / file).unlink()
    with pytest.raises(ValueError, match=rf"{file} is missing.*(restore|record)"):
        read_all(data)
    assert fault(data) == f"{file} is missing"


@pytest.mark.parametrize(("dtype", "message"), [
    ("float16", "manifest says float16"), ("float32", "manifest says float32"), ("int4", "says dtype=int4, known are")
])  # fmt: skip
def test_a_wrong_dtype_in_the_manifest(data, dtype, message):
    path = data / "manifest.json"
    path.write_text(path.read_text().replace('"dtype": "int8"', f'"dtype": "{dtype}"'))
    with pytest.raises(ValueError, match=rf"(000000.tar|manifest.json).*{message}.*(restore|record)"):
        read_all(data)
    assert message in fault(data)


@pytest.mark.parametrize("kind", ["other width", "other dtype", "other images"])
def test_another_datasets_tar_in_place_of_a_shard(data, tmp_path, kind):
    knobs = {"other width": {"d_model": 8}, "other dtype": {"dtype": "float32"}, "other images": {}}[kind]
    other = record(
        tmp_path / "other", 12, examples_per_shard=6 if kind == "other images" else 4, **{"dtype": "int8"} | knobs
    )
    path = data / "layer-01" / "000001.tar"
    shutil.copy(other / "layer-01" / "000001.tar", path)
    with pytest.raises(ValueError, match=r"layer-01/000001\.tar.*(restore|record)"):
        read_all(data)
    if kind != "other images":
        with pytest.raises(ValueError, match="belongs to another dataset"):
            index.load(path, 16, "int8", "")
    assert "layer-01/000001.tar differs" in fault(data)


@pytest.mark.parametrize(
    "kind", ["of another shard", "cut off", "empty", "not an index", "shifted", "a byte in the middle"]
)
def test_a_stale_index_is_made_anew(data, kind):
    expected = read_all(data)[1]
    path = data / "layer-01" / "000001.idx.npy"
    rows = np.load(path)
    if kind == "of another shard":
        shutil.copy(path.with_name("000000.idx.npy"), path)
    elif kind in ("cut off", "empty"):
        path.write_bytes(path.read_bytes()[: 150 if kind == "cut off" else 0])
    elif kind in ("shifted", "a byte in the middle"):
        change = np.zeros_like(rows)
        change[slice(None) if kind == "shifted" else 1] = (0, 512, 0)
        np.save(path, rows + change)
    else:
        np.save(path, rows.astype(np.float32))
    assert fault(data) == "layer-01/000001.idx.npy differs from what was recorded (sha256)"
    for values, wanted in zip(read_all(data)[1], expected, strict=True):
        np.testing.assert_array_equal(values, wanted)
    assert not [finding for finding in check_path(data) if finding.fault]  # reading rebuilds the index
    np.testing.assert_array_equal(np.load(path), rows)


def test_a_shard_of_other_images_is_not_indexed_anew(data):
    """Two shards of the same size have been exchanged, with their indices."""
    for name in ("000000", "000001"):
        for ending in ("tar", "idx.npy"):
            (data / f"layer-01/{name}.{ending}").rename(data / f"layer-01/{name}.{ending}.x")
    for old, new in (("000000", "000001"), ("000001", "000000")):
        for ending in ("tar", "idx.npy"):
            (data / f"layer-01/{old}.{ending}.x").rename(data / f"layer-01/{new}.{ending}")
    with pytest.raises(ValueError, match=r"000000\.tar holds other images than were recorded: restore it or record"):
        read_all(data)


def test_a_shard_written_after_the_recording_is_warned_of(data, caplog):
    read_all(data)
    assert not caplog.text
    path = data / "layer-01" / "000001.tar"
    os.utime(path, (path.stat().st_mtime + 4000,) * 2)
    read_all(data)
    assert (
        f"{path} was written after the recording was finished" in caplog.text and f"saev doctor {data}" in caplog.text
    )


def test_labels_of_a_wrong_length(data):
    np.save(data / "token_labels.npy", np.load(data / "token_labels.npy")[:-1])
    with pytest.raises(ValueError, match=r"token_labels.npy .*instead of uint16 .204,.: restore it or record"):
        read_all(data)
    assert "token_labels.npy differs" in fault(data)


def test_labels_of_a_wrong_length_where_the_manifest_is_of_an_older_version(data):
    """Guards against finding it by sha256 alone: tables were not hashed at first."""
    path = data / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": {}}))
    np.save(data / "token_labels.npy", np.load(data / "token_labels.npy")[:-1])
    assert "token_labels.npy is missing or holds uint16 (203,)" in fault(data)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_manifest_cut_off(data, share):
    path = data / "manifest.json"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"manifest.json is cut off or not a manifest .*restore it or record again"):
        read_all(data)
    assert "manifest.json is cut off" in fault(data)
