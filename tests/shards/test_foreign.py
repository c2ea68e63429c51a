"""Tars that other programs wrote are read in place; what cannot be is refused with the entry's name."""

import io
import os
import tarfile

import numpy as np
import pytest
import webdataset as wds

from saev.runs.diagnosis import check_path
from saev.shards import ActivationStore, TokenStream, index
from saev.shards.foreign import index_foreign


def arrays(seed, n=7, tokens=(5, 3, 4), d_model=6, dtype="float16"):
    rng = np.random.default_rng(seed)
    return [rng.normal(2, 1, (tokens[i % len(tokens)], d_model)).astype(dtype) for i in range(n)]


def write_tar(path, named, **knobs):
    """By Python's tarfile, with what its names and headers may hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **knobs) as file:
        for name, value in named.items():
            data = io.BytesIO()
            np.save(data, value) if isinstance(value, np.ndarray) else data.write(value)
            info = tarfile.TarInfo(name)
            info.size, info.mtime = data.tell(), 12.5
            data.seek(0)
            file.addfile(info, data)
    return path


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_round_trip(tmp_path, format):
    """ShardEntries of any name and order beside others, in tars elsewhere that stay where they are."""
    acts = arrays(0)
    long = "a/folder/" + ("é" if format == tarfile.PAX_FORMAT else "e") * 60 + "/"
    named = [{f"{long}{9 - i}.npy": a for i, a in enumerate(part)} for part in (acts[:4], acts[4:])]
    tars = [
        write_tar(tmp_path / "elsewhere" / f"vectors-{i}.tar", {"readme.txt": b"x"} | part, format=format)
        for i, part in enumerate(named)
    ]
    before = [tar.read_bytes() for tar in tars]
    root = index_foreign(tmp_path / "data", {4: tars}, meaning={"vit": {"name": "theirs", "depth": 12}})
    assert [tar.read_bytes() for tar in tars] == before
    store = ActivationStore(root)
    for example, wanted in enumerate(acts):
        np.testing.assert_array_equal(store.read(4, example), wanted)
    rows = np.concatenate(acts).astype(np.float64)
    np.testing.assert_allclose(store.moments(4).variance, rows.var(0), rtol=1e-5)
    assert store.manifest.n_tokens == len(rows) and store.resolve_layer(-8) == 4
    assert store.examples["key"].to_list() == [name.removesuffix(".npy") for part in named for name in part]
    assert not [finding for finding in check_path(root) if finding.fault]
    stream = TokenStream(store, 4, batch_size=7)
    seen = [batch for batch, _ in zip(stream.batches(0), range(stream.n_batches), strict=False)]
    assert sorted(map(tuple, np.concatenate([np.array(batch["acts"]) for batch in seen]))) == sorted(
        map(tuple, np.concatenate(acts))
    )


def test_tars_of_webdataset_where_they_lie_and_vectors_in_two_layers(tmp_path):
    for layer in (1, 2):
        folder = tmp_path / f"layer-{layer:02d}"
        folder.mkdir()
        with wds.TarWriter(str(folder / "pooled.tar")) as sink:
            for i in range(5):
                sink.write({"__key__": f"{i}", "cls": i, "pooled.npy": np.full(6, i + 10 * layer + 0.5, np.float32)})
    root = index_foreign(tmp_path, {layer: [tmp_path / f"layer-{layer:02d}" / "pooled.tar"] for layer in (2, 1)})
    store = ActivationStore(root)
    assert store.layers == (1, 2) and store.manifest.roles == {"patches": 1}
    np.testing.assert_array_equal(store.read(2, 3), np.full((1, 6), 23.5, np.float32))
    assert not (tmp_path / "layer-01" / "pooled.tar").is_symlink()
    assert index_foreign(root, {1: [tmp_path / "layer-01" / "pooled.tar"]}) == root, "made anew"
    assert ActivationStore(root).layers == (1,)


def test_a_stale_index_is_refused(tmp_path):
    tar = write_tar(tmp_path / "layer-00" / "a.tar", {f"{i}.npy": a for i, a in enumerate(arrays(0))})
    root = index_foreign(tmp_path, {0: [tar]})
    later = tar.stat().st_mtime + 9
    os.utime(tar, (later, later))
    with pytest.raises(ValueError, match=r"a.foreign.idx.npy is damaged or older than its tar.*index the tars again"):
        ActivationStore(root).offsets(0)
    index_foreign(tmp_path, {0: [tar]})
    os.utime(tar.with_suffix(index.FOREIGN), (later, later))
    assert len(ActivationStore(root).offsets(0)) == 7
    tar.with_suffix(index.FOREIGN).unlink()
    with pytest.raises(ValueError, match=r"is not named like .*index_foreign"):
        ActivationStore(root).offsets(0)


REFUSED = {
    "another width": ({"a.npy": np.zeros((2, 3)), "b.npy": np.zeros((2, 4))}, r"b.npy holds float64 of width 4"),
    "another dtype": ({"a.npy": np.zeros(3), "b.npy": np.zeros(3, np.float32)}, r"b.npy holds float32"),
    "integers": ({"a.npy": np.zeros((2, 3), np.int64)}, r"a.npy holds int64 .*choose others by `suffix`"),
    "three axes": ({"a.npy": np.zeros((2, 3, 4))}, r"a.npy holds float64 \(2, 3, 4\)"),
    "big endian": ({"a.npy": np.zeros((2, 3), ">f4")}, r"a.npy holds >f4"),
    "Fortran order": ({"a.npy": np.asfortranarray(np.ones((2, 3)))}, r"a.npy cannot be read in place .*Fortran"),
    "objects": ({"a.npy": np.array([{}, []], object)}, r"a.npy holds object"),
    "no array": ({"a.npy": b"hello"}, r"a.npy cannot be read in place"),
    "nothing": ({"a.txt": b"hello"}, r"no tars with entries named \*.npy"),
    "not finite": ({"a.npy": np.array([1, np.inf])}, r"a.npy has NaN or infinite values"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_refused(tmp_path, kind):
    named, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        index_foreign(tmp_path / "data", {0: [write_tar(tmp_path / "a.tar", named)]})
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_tars_that_are_none(tmp_path):
    tar = write_tar(tmp_path / "a.tar", {f"{i}.npy": a for i, a in enumerate(arrays(0))})
    other = write_tar(tmp_path / "b" / "a.tar", {"x.npy": np.zeros((1, 6), np.float16)})
    cut, packed = tmp_path / "cut.tar", tmp_path / "packed.tar"
    cut.write_bytes(tar.read_bytes()[:1300])
    with tarfile.open(packed, "w:gz") as file:
        file.add(tar)
    for tars, message in (
        ({0: [tmp_path / "none.tar"]}, "none.tar is missing"),
        ({0: [cut]}, "cut.tar is (truncated|missing, compressed or no tar)"),
        ({0: [packed]}, "packed.tar is missing, compressed or no tar"),
        ({0: [tar, other]}, "is another file than .*rename one"),
        ({0: [tar], 1: [other]}, "layer 1 has other images"),
    ):
        with pytest.raises(ValueError, match=message):
            index_foreign(tmp_path / "data", tars)


def test_a_recording_is_not_overwritten(tiny):
    with pytest.raises(ValueError, match="never overwritten"):
        index_foreign(tiny, {})


@pytest.mark.parametrize("name", ["/etc/a.npy", "../a.npy", "x/../../a.npy", "a\nb.npy"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    tar = write_tar(tmp_path / "a.tar", {name: arrays(0)[0]})
    with pytest.raises(ValueError, match=r"a\.tar names the file .*: rename the entry"):
        index_foreign(tmp_path / "out", {0: [tar]})
