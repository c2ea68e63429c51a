"""Embeddings from files, recordings and backbones, matched with the images of a recording."""

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from recordings import record
from safetensors.numpy import save_file

from saev.dictionary_bench.embeddings import embeddings_from_backbone, embeddings_from_file, embeddings_from_recording
from saev.dictionary_bench.hierarchy import siblings
from saev.images import FolderImages
from saev.shards import ActivationStore
from saev.vits import MicroVit
from saev.vits.outputs import outputs

ROWS = np.arange(20, dtype=np.float32).reshape(10, 2)
EXAMPLE = np.array([2, 7])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ActivationStore(record(tmp_path_factory.mktemp("e") / "r", n_examples=10))


def test_rows_are_matched_by_name_or_by_order(store, tmp_path):
    keys = np.array([str(i) for i in range(9, -1, -1)])  # in reverse
    np.save(tmp_path / "a.npy", ROWS)
    np.savez(tmp_path / "b.npz", key=keys, embeddings=ROWS[::-1])
    save_file({"embeddings": ROWS}, tmp_path / "c.safetensors")
    pl.DataFrame({"key": keys, "e": ROWS[::-1].tolist()}).write_parquet(tmp_path / "d.parquet")
    pl.DataFrame({"name": keys, "e0": ROWS[::-1, 0], "e1": ROWS[::-1, 1]}).write_parquet(tmp_path / "e.parquet")
    for name in ("a.npy", "b.npz", "c.safetensors", "d.parquet", "e.parquet"):
        assert (embeddings_from_file(tmp_path / name, store, EXAMPLE) == ROWS[EXAMPLE]).all()


def test_files_that_do_not_fit(store, tmp_path):
    np.save(tmp_path / "few.npy", ROWS[:5])
    np.save(tmp_path / "flat.npy", ROWS[0])
    np.save(tmp_path / "nan.npy", ROWS * np.nan)
    np.savez(tmp_path / "names.npz", key=np.array(["a"] * 10), embeddings=ROWS)
    np.savez(tmp_path / "others.npz", key=np.arange(10).astype(str)[::-1], embeddings=ROWS)
    np.savez(tmp_path / "short.npz", key=np.arange(5).astype(str), embeddings=ROWS[:5])
    for name, message in {
        "few.npy": "5 rows without image names, .* 10 images", "flat.npy": "cannot be read", "nan.npy": "NaN",
        "names.npz": "names an image twice", "short.npz": "no row for 1 of 2 images, the first: 7", "no.npy": "is no file",
        "table.txt": "is no file",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            embeddings_from_file(tmp_path / name, store, EXAMPLE)


def test_the_mean_over_patches_of_another_recording(store, tmp_path, caplog):
    other = ActivationStore(record(tmp_path / "o", n_examples=10, d_model=8, layers=(1, 3)))
    found = embeddings_from_recording(other, store, EXAMPLE)
    assert np.allclose(found, [other.read(3, int(i), "patches").mean(0) for i in EXAMPLE], atol=1e-5)
    assert "not independent" in caplog.text
    few = ActivationStore(record(tmp_path / "f", n_examples=5))
    with pytest.raises(ValueError, match="no row for 1 of 2 images, the first: 7"):
        embeddings_from_recording(few, store, EXAMPLE)


def test_outputs_of_a_backbone(store, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / f"{i}.png")
    images, vit = FolderImages(root=str(tmp_path)), MicroVit(registers=2)
    named = ActivationStore(store.root)
    named.examples = store.examples.with_columns(pl.col("key") + ".png")
    backbone = vit.load()
    pixels = torch.stack([backbone.transform(images.open(i)) for i in EXAMPLE.tolist()])
    found = embeddings_from_backbone(vit, images, named, EXAMPLE, batch_size=1)
    assert np.allclose(found, outputs(backbone, pixels)["pooled"], atol=1e-5)
    found = embeddings_from_backbone(vit, images, named, EXAMPLE, layer=2)
    assert np.allclose(found, backbone(pixels, [2])[2][:, 3:].mean(1), atol=1e-5)


def test_children_of_a_csv(tmp_path):
    path = tmp_path / "h.csv"
    path.write_text("parent,child\ndog,a\ndog,b\ndog,c\ndog,a\ncat,a\ncat,d\ncat,unknown\nall,d\nall,b\nall,c\nall,a\n")
    assert siblings(path, ["d", "c", "b", "a"]) == {"dog": [1, 2, 3], "all": [0, 1, 2, 3]}
    with pytest.raises(ValueError, match="no parent has 3 children among the 2 classes"):
        siblings(path, ["a", "b"])
    path.write_text("parent,kid\na,b\n")
    with pytest.raises(ValueError, match="has no column child"):
        siblings(path, ["a", "b"])
