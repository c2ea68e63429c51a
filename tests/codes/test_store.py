"""Reading codes: any rows, as NumPy, SciPy and torch have them; more of them than 32 bits count; damaged files."""

import dataclasses
import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from codes.dictionaries import sae
from codes.test_encoding import dense, encoded, selection

from saev.codes import CodesManifest, CodeStore
from saev.codes.arrays import array_path
from saev.codes.latents import LatentStatistics
from saev.codes.writer import ShardWriter
from saev.ops.sparse import SparseCodes
from saev.shards.tar import npy_header

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


@pytest.fixture(scope="module")
def codes(tiny, tmp_path_factory):
    """Three shards of 240, 240 and 160 rows."""
    return encoded(tmp_path_factory.mktemp("codes"), selection(tiny), sae("batchtopk"))


@pytest.fixture(scope="module")
def wanted(tiny):
    return dense(selection(tiny), sae("batchtopk"))


SLICES = [(0, None), (0, 0), (0, 1), (239, 240), (239, 241), (240, 480), (100, 600), (640, 640), (639, 640)]


@pytest.mark.parametrize(("start", "stop"), SLICES)
def test_rows(start, stop, codes, wanted):
    found = codes.rows(start, stop)
    assert found.offsets.dtype == np.int64 and found.latents.dtype == np.int32 and found.offsets[0] == 0
    part = wanted[start:stop]
    np.testing.assert_allclose(found.dense(), part, rtol=1e-5)
    matrix = found.scipy()
    assert matrix.shape == part.shape and matrix.has_canonical_format
    np.testing.assert_allclose(matrix.toarray(), part, rtol=1e-5)
    np.testing.assert_allclose(found.torch().dense(96).numpy(), part, rtol=1e-5)


def test_rows_of_one_shard_are_views_of_the_files(codes):
    found = codes.rows(3, 200)
    assert not found.latents.flags.owndata and not found.values.flags.writeable
    assert len(codes) == 640 and codes.shape == (640, 96)


def test_rows_that_are_not_there_are_refused(codes):
    for start, stop in ((-1, 3), (5, 4), (0, 641)):
        with pytest.raises(ValueError, match=f"rows {start} to {stop} do not exist.*has 640"):
            codes.rows(start, stop)
        with pytest.raises(ValueError, match=f"rows {start} to {stop} do not exist.*has 640"):
            codes.tokens(start, stop)


@pytest.mark.parametrize(("start", "stop"), SLICES)
def test_images_and_tokens_of_rows(start, stop, codes):
    rows = np.arange(640)[start:stop]
    example, token = codes.tokens(start, stop)
    np.testing.assert_array_equal(example, rows // 16)
    np.testing.assert_array_equal(token, rows % 16 + 1)  # after the cls token


def test_rows_of_an_image(codes):
    assert [codes.rows_of(e) for e in (0, 1, 39, 40)] == [(0, 16), (16, 32), (624, 640), (640, 640)]


def test_the_table_of_latents_is_that_of_the_codes(codes, wanted):
    table = codes.latents
    assert table["latent"].to_list() == list(range(96)) and table["firings"].sum() == codes.nnz
    np.testing.assert_allclose(table["frequency"], (wanted != 0).mean(0))
    best = table.row(int(wanted.max(0).argmax()), named=True)
    row = best["top_example"][0] * 16 + best["top_token"][0] - 1
    assert row == wanted.max(1).argmax() and best["max_value"] == best["top_value"][0] == pytest.approx(wanted.max())


def test_the_manifest_says_what_they_are(codes, tiny):
    found = json.loads((codes.root / "manifest.json").read_text())
    assert found["complete"] and found["n_tokens"] == 640 and found["nnz"] == codes.nnz and found["layer"] == 1
    assert [shard["tokens"] for shard in found["shards"]] == [240, 240, 160]
    assert found["dataset"]["name"] == "tiny" and found["latent_topk"] is None and found["dtype"] == "float32"
    assert codes.root.name.startswith("tiny-dictionary-") and re.fullmatch(r"[0-9a-f]{8}", codes.root.name[-8:])
    assert codes.verify() == []


def test_the_name_is_that_of_what_decides(codes):
    manifest = codes.manifest
    moved = dataclasses.replace(manifest, dictionary={**manifest.dictionary, "path": "/elsewhere/dictionary"})
    assert moved.name == manifest.name
    others = {"layer": 2, "tokens": "cls", "latent_topk": 64, "dtype": "float16", "ignore_labels": (1,)}
    names = {dataclasses.replace(manifest, **{key: value}).name for key, value in others.items()}
    names.add(dataclasses.replace(manifest, dataset={**manifest.dataset, "fingerprint": "0"}).name)
    names.add(dataclasses.replace(manifest, images={**manifest.images, "sha256": "0"}).name)
    names.add(dataclasses.replace(manifest, dictionary={**manifest.dictionary, "sha256": "0"}).name)
    assert len(names | {manifest.name}) == len(others) + 4


# --- more than 2^31 codes


def hollow(path: Path, dtype: str, n: int, tail: np.ndarray) -> None:
    """An array of n values, all 0 but its tail, which takes no room on the disk."""
    with open(path, "wb") as file:
        file.write(npy_header((n,), dtype))
        file.seek(np.dtype(dtype).itemsize * (n - len(tail)), 1)
        file.write(tail.astype(dtype).tobytes())


def test_offsets_beyond_32_bits(tmp_path, codes, monkeypatch):
    """One shard with more than 2^31 codes, and one after it."""
    monkeypatch.setattr("saev.codes.store.sha256", lambda path: "")  # of files with holes
    big, unhashed = (1 << 31) + 5, dict.fromkeys(("indptr", "indices", "values"), "")
    manifest = dataclasses.replace(
        codes.manifest, n_tokens=5, nnz=big + 2,
        shards=({"tokens": 3, "nnz": big, "sha256": unhashed}, {"tokens": 2, "nnz": 2, "sha256": unhashed}),
    )  # fmt: skip
    manifest.save(tmp_path)
    arrays = {"indptr": ("int64", [0, big - 5, big - 2, big], 4), "indices": ("int32", [3, 4, 5, 8, 9], big)}
    for name, (dtype, tail, n) in {**arrays, "values": ("float32", [1, 2, 3, 4, 5], big)}.items():
        hollow(array_path(tmp_path, 0, name), dtype, n, np.array(tail))
    for name, dtype, tail in (
        ("indptr", "int64", [0, 1, 2]),
        ("indices", "int32", [6, 7]),
        ("values", "float32", [6, 7]),
    ):
        hollow(array_path(tmp_path, 1, name), dtype, len(tail), np.array(tail))
    store = CodeStore(tmp_path)
    assert store.nnz == big + 2 and len(store) == 5
    found = store.rows(1, 5)
    assert found.offsets.tolist() == [0, 3, 5, 6, 7] and found.latents.tolist() == [3, 4, 5, 8, 9, 6, 7]
    assert found.values.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert store.rows(2, 3).values.tolist() == [4, 5]


def test_a_shard_counts_its_codes_in_64_bits(tmp_path):
    out = ShardWriter(tmp_path, 0, LatentStatistics(4), "float16", "it")
    out.nnz = (1 << 31) - 1
    rows = np.zeros(2, np.int64)
    out.add(SparseCodes(torch.tensor([0, 1, 3]), torch.tensor([1, 0, 2]), torch.ones(3)), rows, rows)
    out.commit()
    assert np.load(array_path(tmp_path, 0, "indptr")).tolist() == [0, 1 << 31, (1 << 31) + 2]


# --- what is not as it was written


@pytest.fixture
def copy(tiny, tmp_path):
    return encoded(tmp_path, selection(tiny), sae("topk")).root


def test_other_directories_are_refused(copy, tiny, tmp_path):
    for path, said in ((tmp_path / "none", "manifest.json is missing"), (tiny, "holds no codes, but something else")):
        with pytest.raises(ValueError, match=said):
            CodeStore(path)
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text()[:-30])
    with pytest.raises(ValueError, match="truncated or no manifest"):
        CodeStore(copy)


def test_an_unfinished_directory_is_refused(copy):
    dataclasses.replace(CodesManifest.load(copy), complete=False).save(copy)
    (copy / "shard-000001.json").touch()
    with pytest.raises(ValueError, match=r"incomplete \(1 shards encoded\): run the same `saev encode` command"):
        CodeStore(copy)


def test_a_newer_schema_is_refused(copy):
    dataclasses.replace(CodesManifest.load(copy), schema=9).save(copy)
    with pytest.raises(ValueError, match="has schema 9, this version reads 2"):
        CodeStore(copy)


def test_damaged_files_are_named(copy, monkeypatch):
    cut, gone, changed = (array_path(copy, i, name) for i, name in ((0, "values"), (1, "indptr"), (2, "indices")))
    cut.write_bytes(cut.read_bytes()[:-4])
    gone.unlink()
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    store = CodeStore(copy)
    for row in (0, 300, 500):
        with pytest.raises(ValueError, match=r"missing or damaged.*encode again"):
            store.rows(row, row + 1)
    assert [fault.split()[0] for fault in store.verify()] == [cut.name, gone.name, changed.name]
    hollow(cut, "float32", 3, np.zeros(3))
    monkeypatch.setattr(
        "saev.codes.store.sha256", lambda path: store.manifest.shards[0]["sha256"][path.name.split(".")[1]]
    )
    with pytest.raises(ValueError, match="holds 3 values instead of"):
        CodeStore(copy).rows(0, 1)


def test_the_reader_of_the_page_reads_them(codes, wanted):
    """docs/formats.md shows how to read codes with NumPy and SciPy alone."""
    section = PAGE.read_text().split("## Codes\n")[1].split("\n## ")[0]
    reader = re.search(r"^    import numpy.*?(?=^\S)", section, re.M | re.S)
    assert reader
    names = {"directory": codes.root, "shard": 1, "n_latents": codes.n_latents}
    exec(compile(textwrap.dedent(reader[0]), "formats.md", "exec"), names)
    np.testing.assert_allclose(names["codes"].toarray(), wanted[240:480], rtol=1e-5)
    assert (names["example"] == np.arange(640) // 16).all() and (names["token"] == np.arange(640) % 16 + 1).all()
