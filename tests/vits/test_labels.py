"""Patch labels are those of the patches that the backbone saw, whatever the shape of the picture."""

import json

import numpy as np
import polars as pl
import pytest
from vits.masked import MaskedPhotos, ids_of
from vits.micro_recordings import N, recording

from saev.images import FolderImages
from saev.images.patch_labels import patch_labels
from saev.shards import ActivationStore
from saev.shards.manifest import VOID
from saev.vits import MicroVit

FIXED = MicroVit(registers=1)
VITS = {
    "fixed": FIXED,
    **{fit: MicroVit(registers=1, resize="flex", n_patches=20, fit=fit) for fit in ("stretch", "crop", "pad")},
}


@pytest.mark.parametrize("kind", VITS)
def test_each_stored_token_has_its_label(photos, tmp_path, kind):
    vit, images = VITS[kind], MaskedPhotos(root=str(photos))
    directory = recording(photos, tmp_path, vit=vit, images=images, tokens=["cls", "registers", "patches"]).run(False)
    labels, fractions = np.load(directory / "token_labels.npy"), np.load(directory / "token_fractions.npy")
    table, transform, at = ActivationStore(directory).examples, vit.load().transform, 0
    for row in table.iter_rows(named=True):
        index, n = images.paths().index(row["key"]), row["n_tokens"]
        grid = row["grid_h"], row["grid_w"]
        assert n == 2 + grid[0] * grid[1]
        mine, certain = labels[at : at + n], fractions[at : at + n]
        assert (mine[:2] == VOID).all() and (certain[:2] == 0).all(), "cls and registers"
        if index % 5 == 4:
            assert (mine == VOID).all() and (certain == 0).all(), "no mask"
        else:
            mask = transform.mask(ids_of(index, row["width"], row["height"]))
            expected, share = patch_labels(mask, grid, images.labelling)
            assert np.array_equal(mine[2:], expected) and np.array_equal(certain[2:], share)
        at += n
    assert at == len(labels) == len(fractions)
    named = labels[labels != VOID]
    assert len(np.unique(named)) > 40 and named.min() >= 300


def test_labels_are_part_of_the_meaning_only_where_there_are_masks(photos, tmp_path):
    plain = recording(photos, tmp_path)
    masked = recording(photos, tmp_path, images=MaskedPhotos(root=str(photos)))
    special = recording(photos, tmp_path, images=MaskedPhotos(root=str(photos)), tokens=["cls"])
    assert "labels" not in plain.plan.meaning and "labels" not in special.plan.meaning
    assert masked.plan.meaning["labels"] == {"method": "majority", "void": [999], "background": []}
    assert masked.directory() != plain.directory()
    manifest = json.loads((masked.run(False) / "manifest.json").read_text())
    assert manifest["labels"]["classes"] == {"300": "sky"}
    assert not (special.run(False) / "token_labels.npy").exists()


def test_activations_do_not_depend_on_masks(photos, tmp_path):
    masked = recording(photos, tmp_path, images=MaskedPhotos(root=str(photos))).run(False)
    plain = recording(photos, tmp_path, images=FolderImages(root=str(photos), name="birds")).run(False)
    for tar in plain.rglob("*.tar"):
        assert tar.read_bytes() == (masked / tar.relative_to(plain)).read_bytes()


def test_a_mask_that_cannot_be_read_or_does_not_fit_counts_as_an_unreadable_image(photos, tmp_path):
    images = MaskedPhotos(root=str(photos), broken=(3,), shrunk=(7,))
    store = ActivationStore(recording(photos, tmp_path, images=images).run(False))
    bad = store.examples.filter(pl.col("error").is_not_null()).sort("key")
    assert bad["key"].to_list() == sorted(images.paths()[i] for i in (3, 7)) and bad["n_tokens"].to_list() == [0, 0]
    said = " ".join(bad["error"])
    assert "truncated" in said and "its mask has" in said
    assert len(np.load(store.root / "token_labels.npy")) == 16 * (N - 2)
    with pytest.raises(ValueError, match=r"its mask has .*record\.on_error=skip|truncated.*record\.on_error=skip"):
        recording(photos, tmp_path / "stop", images=images, on_error="stop").run(False)
