"""saev's activation shards of every protocol become a recording with the same values, layers ascending."""

import json

import numpy as np
import pytest

from saev.interop import saev_shards
from saev.shards import ActivationStore

N, P, D, PER_SHARD = 7, 6, 5, 3
NAMES = {
    "before 1.0": ("vit_family", "vit_ckpt", "n_patches_per_img", "d_vit", "n_imgs", "n_patches_per_shard"),
    "1.x": ("vit_family", "vit_ckpt", "n_patches_per_img", "d_vit", "n_imgs", "max_patches_per_shard"),
    "2.0": ("family", "ckpt", "patches_per_ex", "d_model", "n_ex", "patches_per_shard"),
    "2.1": ("family", "ckpt", "content_tokens_per_example", "d_model", "n_examples", "max_tokens_per_shard"),
}


def acts_of(layers, cls):
    """Images [n, layers, tokens, d], the layers as they stand in the file: ascending."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, len(layers), P + cls, D)).astype(np.float32)


def write(folder, protocol="2.1", layers=(8, 3), cls=True, labels=None, whole=True, **more):
    """saev's writer: metadata.json, shards.json, acts*.bin (the last one full of zeros behind its images), labels.bin."""
    folder.mkdir()
    names = NAMES[protocol]
    budget = PER_SHARD * (P + cls) * len(layers) + 1  # floor division: one token more makes no difference
    metadata = dict(zip(names, ("dinov2", "vits14", P, D, N, budget), strict=True))
    metadata |= {"layers": list(layers), "cls_token": cls, "data": "gASVBwAAAAAAAAB9lC4=", **more}
    if protocol == "2.1":
        metadata |= {"dataset": "/somewhere/birds", "pixel_agg": "majority", "dtype": "float32", "protocol": "2.1"}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    acts = acts_of(layers, cls)
    for i in range(-(-N // PER_SHARD)):
        own = acts[i * PER_SHARD : (i + 1) * PER_SHARD]
        full = np.zeros((PER_SHARD if whole else len(own), *acts.shape[1:]), "<f4")
        full[: len(own)] = own
        full.tofile(folder / f"acts{i:06d}.bin")
    counts = [{"name": f"acts{i:06d}.bin", names[4]: min(PER_SHARD, N - i * PER_SHARD)} for i in range(3)]
    (folder / "shards.json").write_text(json.dumps(counts))
    if labels is not None:
        labels.astype(np.uint8).tofile(folder / "labels.bin")
    return folder


@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize("protocol", NAMES)
def test_every_protocol_is_read_back_bit_for_bit(protocol, cls, tmp_path):
    source = write(tmp_path / "saev", protocol, cls=cls)
    store = saev_shards.convert(source, tmp_path / "out")
    acts = acts_of((3, 8), cls)
    assert store.layers == (3, 8) and store.manifest.dtype == "float32" and len(store.shard_paths(3)) == 3
    for example in range(N):
        for n, layer in enumerate((3, 8)):
            assert np.array_equal(store.read(layer, example), acts[example, n])
    assert store.manifest.roles == ({"cls": 1, "patches": P} if cls else {"patches": P})
    assert store.verify() == [] and store.token_labels is None
    np.testing.assert_allclose(store.moments(8, "patches").mean, acts[:, 1, int(cls) :].mean((0, 1)), atol=1e-6)


def test_the_manifest_names_the_source_without_paths_or_pickles(tmp_path):
    store = saev_shards.convert(write(tmp_path / "saev"), tmp_path / "out", grid=(2, 3))
    meaning = store.manifest.meaning
    assert meaning["images"] == {"kind": "saev", "name": "birds"} and meaning["vit"] == {"name": "dinov2/vits14"}
    assert "gASV" not in json.dumps(meaning) and "/somewhere" not in json.dumps(meaning)
    assert meaning["source"]["metadata"]["protocol"] == "2.1" and len(meaning["source"]["sha256"]) == 64
    assert store.examples["grid_h"].to_list() == [2] * N and store.examples["grid_w"].to_list() == [3] * N


def test_labels_come_along_and_cls_has_none(tmp_path):
    labels = np.arange(N * P).reshape(N, P) % 7
    store = saev_shards.convert(write(tmp_path / "saev", labels=labels), tmp_path / "out")
    found = np.asarray(store.token_labels).reshape(N, P + 1)
    assert (found[:, 0] == 65535).all() and np.array_equal(found[:, 1:], labels)
    assert store.manifest.labels["method"] == "majority"
    fractions = np.load(tmp_path / "out" / "token_fractions.npy").reshape(N, P + 1)
    assert (fractions[:, 0] == 0).all() and np.isnan(fractions[:, 1:]).all()  # saev does not keep them


def test_layers_counted_from_the_end_need_the_depth(tmp_path):
    source = write(tmp_path / "saev", layers=(-2, 3))
    with pytest.raises(ValueError, match="give --depth"):
        saev_shards.convert(source, tmp_path / "out")
    store = saev_shards.convert(source, tmp_path / "out", depth=12)
    assert store.layers == (3, 10) and store.resolve_layer(-2) == 10


def test_float16_halves_the_size_and_says_what_does_not_fit(tmp_path):
    source = write(tmp_path / "saev")
    store = saev_shards.convert(source, tmp_path / "out", dtype="float16")
    assert np.array_equal(store.read(3, 0), acts_of((3, 8), True)[0, 0].astype(np.float16))
    values = np.fromfile(source / "acts000001.bin", "<f4")
    values[5] = 1e6
    values.tofile(source / "acts000001.bin")
    with pytest.raises(ValueError, match="float32"):
        saev_shards.convert(source, tmp_path / "again", dtype="float16")


def test_a_stopped_conversion_resumes_and_a_finished_one_is_left_alone(tmp_path, monkeypatch):
    source = write(tmp_path / "saev")
    original, opened = saev_shards.open_shard, []

    def stop(folder, layout, i):
        opened.append(i)
        if opened.count(1) == 2:  # the first look checks the size
            raise KeyboardInterrupt
        return original(folder, layout, i)

    monkeypatch.setattr(saev_shards, "open_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        saev_shards.convert(source, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("shard-*.json"))) == 1
    monkeypatch.setattr(saev_shards, "open_shard", original)
    assert np.array_equal(saev_shards.convert(source, tmp_path / "out").read(8, 6), acts_of((3, 8), True)[6, 1])
    with pytest.raises(ValueError, match="never overwritten"):
        saev_shards.convert(source, tmp_path / "out")


def test_a_last_shard_without_its_padding_is_read_too(tmp_path):
    store = saev_shards.convert(write(tmp_path / "saev", whole=False), tmp_path / "out")
    assert np.array_equal(store.read(8, N - 1), acts_of((3, 8), True)[N - 1, 1])


def cut(folder):
    (folder / "acts000001.bin").write_bytes((folder / "acts000001.bin").read_bytes()[:-8])


def stopped(folder):
    (folder / "shards.json").write_text(json.dumps([{"name": "acts000000.bin", "n_examples": 3}]))


BROKEN = {
    "a cut shard": (cut, r"acts000001.bin has \d+ bytes"),
    "a missing shard": (lambda folder: (folder / "acts000002.bin").unlink(), "acts000002.bin is missing"),
    "a recording that was stopped": (stopped, "lists 3 images.*stopped while it recorded"),
    "a list that is none": (
        lambda folder: (folder / "shards.json").write_text('[{"name": "a"}]'),
        "is no list of shards",
    ),
    "labels of another set": (lambda folder: (folder / "labels.bin").write_bytes(b"123"), "labels.bin has 3 bytes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_together_is_named_before_anything_is_written(case, tmp_path):
    source = write(tmp_path / "saev")
    damage, message = BROKEN[case]
    damage(source)
    with pytest.raises(ValueError, match=message):
        saev_shards.convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


WRONG = {
    "an unknown key": ({"compressed": True}, "compressed.*--ignore-unknown"),
    "another dtype": ({"dtype": "bfloat16"}, "bfloat16"),
    "a layer twice": ({"layers": [3, 3]}, "not distinct blocks"),
    "no images": ({"n_imgs": 0}, "n_examples=0"),
    "a budget too small": ({"max_patches_per_shard": 5}, "do not hold one image"),
}


@pytest.mark.parametrize("case", WRONG)
def test_impossible_metadata_is_refused(case, tmp_path):
    more, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        saev_shards.convert(write(tmp_path / "saev", "1.x", **more), tmp_path / "out")


def test_a_changed_value_is_noticed_when_read_back(tmp_path):
    source = write(tmp_path / "saev")
    saev_shards.convert(source, tmp_path / "out")
    values = np.fromfile(source / "acts000000.bin", "<f4")
    values[0] += 1
    values.tofile(source / "acts000000.bin")
    layout = saev_shards.read_layout(source, None, False)
    with pytest.raises(ValueError, match="image 0 of layer 3 differs when read back"):
        saev_shards.check(source, layout, ActivationStore(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"--grid 2x2.*6 patches"):
        saev_shards.convert(source, tmp_path / "other", grid=(2, 2))
