"""What is written is what is read, by us and by others; what is damaged is refused with its name."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from recordings import acts_of, record

from saev.shards import ActivationStore, Manifest, RecordingWriter, fingerprint, index, tar


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return record(tmp_path_factory.mktemp("store") / "data", layers=(3, 1), skipped=(5, 39))


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def test_round_trip(whole):
    store = ActivationStore(whole)
    assert store.layers == (1, 3) and store.d_model == 16
    for layer in store.layers:
        for example in (0, 14, 15, 38):
            np.testing.assert_array_equal(store.read(layer, example), acts_of(example, layer, 17, 16))
    assert store.read(1, 5).shape == (0, 16)
    assert store.read(1, 0, "cls").shape == (1, 16)
    np.testing.assert_array_equal(store.read(1, 0, "patches"), acts_of(0, 1, 17, 16)[1:])


def test_examples_table_has_a_row_per_image(whole):
    table = ActivationStore(whole).examples
    assert table["index"].to_list() == list(range(40))
    assert table.filter(table["n_tokens"] == 0)["error"].to_list() == ["cannot be read"] * 2
    assert ActivationStore(whole).manifest.n_tokens == table["n_tokens"].sum() == 38 * 17


def test_moments_are_those_of_all_rows(whole):
    rows = np.concatenate([acts_of(e, 3, 17, 16) for e in range(40) if e not in (5, 39)]).astype(np.float64)
    moments = ActivationStore(whole).moments(3)
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, rows.var(0), rtol=1e-12)
    np.testing.assert_allclose(moments.scale**2 * 16, ((rows - rows.mean(0)) ** 2).sum(1).mean(), rtol=1e-12)
    np.testing.assert_allclose(moments.norm_sum / moments.count, np.linalg.norm(rows, axis=1).mean(), rtol=1e-12)


def test_moments_are_those_of_the_tokens_selected(whole):
    """Guards against a scale set by a few tokens of a huge norm (cls, registers) that nobody trains on."""
    patches = np.concatenate([acts_of(e, 3, 17, 16)[1:] for e in range(40) if e not in (5, 39)]).astype(np.float64)
    moments = ActivationStore(whole).moments(3, "patches")
    assert moments.count == len(patches)
    np.testing.assert_allclose(moments.mean, patches.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, patches.var(0), rtol=1e-12)


def test_other_programs_read_the_shards(whole):
    with tarfile.open(whole / "layer-01" / "000000.tar") as file:
        names = file.getnames()
        values = np.load(io.BytesIO(file.extractfile(names[3]).read()))
    assert names[3] == "000000003.acts.npy" and len(names) == 14  # image 5 could not be read
    np.testing.assert_array_equal(values, acts_of(3, 1, 17, 16))


def test_webdataset_reads_the_shards(whole):
    import webdataset as wds

    samples = list(wds.WebDataset(str(whole / "layer-03" / "000001.tar"), shardshuffle=False).decode())
    assert [int(sample["__key__"]) for sample in samples] == list(range(15, 30))
    np.testing.assert_array_equal(samples[2]["acts.npy"], acts_of(17, 3, 17, 16))


def test_index_is_rebuilt_where_it_is_missing(copy):
    before = ActivationStore(copy).offsets(1)
    for path in copy.glob("layer-01/*.idx.npy"):
        path.unlink()
    np.testing.assert_array_equal(ActivationStore(copy).offsets(1), before)


def test_a_stale_index_is_not_believed(copy):
    path = copy / "layer-01" / "000000.idx.npy"
    rows, store = np.load(path), ActivationStore(copy)
    np.save(path, rows + np.array([0, 512, 0]))
    digest = store.shards(1)[0]["index_sha256"]
    np.testing.assert_array_equal(index.load(path.with_name("000000.tar"), 16, "float32", digest), rows)


@pytest.mark.parametrize("kind", ["missing", "truncated"])
def test_a_damaged_shard_is_named(copy, kind):
    path = copy / "layer-01" / "000001.tar"
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"layer-01/000001.tar .*record"):
        ActivationStore(copy).offsets(1)


def test_a_truncated_tar_is_found_by_its_own_headers(copy):
    path = copy / "layer-01" / "000001.tar"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"000001\.tar is truncated"):
        list(tar.entries(path))


def test_a_flipped_byte_is_found_by_verify(copy):
    path = copy / "layer-03" / "000002.tar"
    data = bytearray(path.read_bytes())
    data[4000] ^= 1
    path.write_bytes(data)
    assert ActivationStore(copy).verify() == ["layer-03/000002.tar differs from what was recorded (sha256)"]


def test_a_foreign_tar_is_refused(copy, tmp_path):
    foreign = record(tmp_path / "foreign", d_model=8) / "layer-01" / "000000.tar"
    with pytest.raises(ValueError, match="belongs to another dataset"):
        index.scan(foreign, 16, "float32")


def test_no_manifest_wrong_schema_and_broken_json_are_refused(copy, tmp_path):
    with pytest.raises(ValueError, match=r"dataset=.* is not a recorded dataset"):
        ActivationStore(tmp_path)
    path = copy / "manifest.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "schema": 99}))
    with pytest.raises(ValueError, match="schema 99"):
        ActivationStore(copy)
    path.write_text("{")
    with pytest.raises(ValueError, match="not a manifest"):
        ActivationStore(copy)


def test_layers_and_roles_that_are_not_there(whole, tmp_path):
    store = ActivationStore(whole)
    with pytest.raises(ValueError, match=r"layer=2 is not in .*\[1, 3\]"):
        store.offsets(2)
    with pytest.raises(ValueError, match="tokens=head"):
        store.role_slice("head")
    with pytest.raises(ValueError, match=r"tokens=cls: .* has no cls"):
        ActivationStore(record(tmp_path / "patches", n_cls=0)).role_slice("cls")


class Writing:
    """One image at a time into a recording of 6 images, 2 per shard."""

    def __init__(self, root, dtype="float16"):
        self.writer = RecordingWriter(root, {"a": 1}, 6, 2, [0], {"patches": 2}, 4, dtype)

    def shard(self, i, value=1.0):
        with self.writer.shard(i) as shard:
            for example in self.writer.examples_of(i):
                shard.add(example, {0: np.full((2, 4), value + example, np.float32)}, {"path": f"{example}"})


def test_resumed_recording_equals_an_undisturbed_one(tmp_path):
    through = Writing(tmp_path / "through")
    for i in (0, 1, 2):
        through.shard(i)
    through.writer.finish()
    first = Writing(tmp_path / "resumed")
    first.shard(1)
    with pytest.raises(RuntimeError), first.writer.shard(0) as shard:
        shard.add(0, {0: np.ones((2, 4), np.float32)}, {"path": "0"})
        raise RuntimeError("killed")
    assert not list((tmp_path / "resumed").rglob("*.part")) and first.writer.finish() is None
    with pytest.raises(ValueError, match=r"incomplete .1 of 3"):
        ActivationStore(tmp_path / "resumed")
    again = Writing(tmp_path / "resumed")
    assert again.writer.pending() == [0, 2]
    for i in again.writer.pending():
        again.shard(i)
    assert again.writer.finish() == tmp_path / "resumed"
    files = sorted(p.relative_to(tmp_path / "through") for p in (tmp_path / "through").rglob("*") if p.is_file())
    assert files == sorted(
        p.relative_to(tmp_path / "resumed") for p in (tmp_path / "resumed").rglob("*") if p.is_file()
    )
    for name in files:
        assert (tmp_path / "through" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes(), name


def test_parts_divide_the_shards(tmp_path):
    writer = Writing(tmp_path / "data").writer
    assert writer.pending(0, 2) == [0, 2] and writer.pending(1, 2) == [1]


def test_parts_that_end_together_both_find_it_complete(tmp_path):
    one, two = Writing(tmp_path / "data"), Writing(tmp_path / "data")
    one.shard(0), two.shard(1), one.shard(2)
    assert one.writer.finish() == two.writer.finish() == tmp_path / "data"


def test_what_a_killed_process_left_is_removed(tmp_path):
    writing = Writing(tmp_path / "data")
    left = tmp_path / "data" / "layer-00" / "000001.tar.99999.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    writing.shard(1)
    assert not left.exists()


def test_a_complete_dataset_and_another_recording_are_not_overwritten(tmp_path):
    writing = Writing(tmp_path / "data")
    with pytest.raises(ValueError, match="beginning of another recording"):
        RecordingWriter(tmp_path / "data", {"a": 2}, 6, 2, [0], {"patches": 2}, 4)
    for i in (0, 1, 2):
        writing.shard(i)
    writing.writer.finish()
    with pytest.raises(ValueError, match="never overwritten"):
        Writing(tmp_path / "data")


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.nan, "float32", "NaN or infinite"),
        (1e6, "float16", r"record.dtype=float32"),
        (np.inf, "float16", "NaN or inf"),
    ],
)
def test_values_that_do_not_fit_stop_the_recording(tmp_path, value, dtype, message):
    writing = Writing(tmp_path / "data", dtype)
    with pytest.raises(ValueError, match=message):
        writing.shard(0, value)
    assert writing.writer.pending() == [0, 1, 2]


def test_no_readable_image_at_all(tmp_path):
    writer = Writing(tmp_path / "data").writer
    for i in writer.pending():
        with writer.shard(i) as shard:
            for example in writer.examples_of(i):
                shard.skip(example, "broken", {"path": f"{example}"})
    with pytest.raises(ValueError, match="none of the 6 images could be read; first error: broken"):
        writer.finish()
    assert not Manifest.load(tmp_path / "data").complete


def test_fingerprints_follow_the_contents(whole, tmp_path):
    same = record(tmp_path / "same", layers=(1, 3), skipped=(5, 39))
    other = record(tmp_path / "other", layers=(1, 3), skipped=(5, 38))
    assert Manifest.load(whole).fingerprint == Manifest.load(same).fingerprint != Manifest.load(other).fingerprint
    assert fingerprint({"a": [1]}) != fingerprint({"a": [2]})
