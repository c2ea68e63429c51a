"""Segmentation folders: pairing, splits, tables, and what is said where they do not fit."""

import numpy as np
import pytest
from images.trees import ade20k, mask, picture, segmentation, table
from PIL import Image

from saev.images import Ade20k, SegmentationFolder


def made(tmp_path, **options):
    return SegmentationFolder(**(segmentation(tmp_path) | options))


def test_columns_masks_and_names(tmp_path):
    images = made(tmp_path, void=3, background=[0], method="prefer-foreground")
    images.check()
    assert images.paths() == ["images/train/a.jpg", "images/train/b.png", "images/val/c.png"]
    assert images.labels(0) == {"split": "train", "species": "", "year": 1}
    assert images.labels(1) == {"split": "train", "species": "wren", "year": 2}
    found, expected = images.mask(2), np.asarray(Image.open(tmp_path / "annotations" / "val" / "c.png"))
    assert np.array_equal(found, np.where(expected == 3, 65535, expected.astype(int)))
    info = {"method": "prefer-foreground", "void": [3], "background": [0]}
    assert images.labelling.info() == info | {"classes": {"0": "sky", "1": "wing", "2": "beak", "3": "long tail"}}
    assert images.name == tmp_path.name


def test_a_split_is_a_subfolder(tmp_path):
    images = made(tmp_path, split="val")
    assert images.paths() == ["images/val/c.png"] and images.labels(0)["species"] == "owl"
    with pytest.raises(ValueError, match=r"images\.split=test.*all, train or val"):
        made(tmp_path, split="test").check()


def test_a_flat_folder_has_no_split(tmp_path):
    picture(tmp_path / "images" / "a.jpg")
    mask(tmp_path / "annotations" / "a.tif")
    images = SegmentationFolder(root=str(tmp_path))
    images.check()
    assert images.labels(0) == {} and images.mask(0).shape == (6, 8) and images.labelling.classes == {}


def test_missing_masks_are_named_or_void(tmp_path):
    made(tmp_path)
    (tmp_path / "annotations" / "train" / "a.png").unlink()
    with pytest.raises(ValueError, match=r"no mask in annotations/ for images/train/a\.jpg\..*require_masks=false"):
        SegmentationFolder(root=str(tmp_path)).check()
    images = SegmentationFolder(root=str(tmp_path), require_masks=False)
    images.check()
    assert images.mask(0) is None and images.mask(1) is not None and images.labelling is not None


def test_no_masks_at_all_are_never_right(tmp_path):
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "annotations").mkdir()
    with pytest.raises(ValueError, match=r"no mask in annotations/ for images/a\.jpg.*images=folder"):
        SegmentationFolder(root=str(tmp_path), require_masks=False).check()


def test_two_masks_of_one_image_are_refused(tmp_path):
    made(tmp_path)
    mask(tmp_path / "annotations" / "train" / "a.tif")
    with pytest.raises(ValueError, match=r"annotations/train/a\.png and annotations/train/a\.tif are two masks"):
        SegmentationFolder(root=str(tmp_path)).check()


def test_an_image_without_a_row_is_named(tmp_path):
    images = made(tmp_path)
    table(tmp_path / "labels.csv", [("stem", "species"), ("a", "owl"), ("elsewhere", "emu")])
    with pytest.raises(ValueError, match=r"labels\.csv has no row for images/train/b\.png, images/val/c\.png"):
        images.check()


def test_a_text_of_labels_is_a_class(tmp_path):
    images = made(tmp_path, labels_file="image_labels.txt", classes=None)
    with pytest.raises(ValueError, match=r"has no image_labels\.txt"):
        images.check()
    table(tmp_path / "image_labels.txt", [("a", "Owl"), ("b", "Wren"), ("c", "Owl")])
    images = made(tmp_path, labels_file="image_labels.txt")
    assert [images.labels(i)["class"] for i in range(3)] == ["Owl", "Wren", "Owl"]


def test_options_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"images\.method=mean"):
        made(tmp_path, method="mean").check()
    with pytest.raises(ValueError, match=r"images\.classes=.*gone\.txt"):
        made(tmp_path, classes="gone.txt").check()


def test_masks_of_colours_are_refused_before_anything_is_recorded(tmp_path):
    images = made(tmp_path)
    picture(tmp_path / "annotations" / "train" / "b.png", 1)
    with pytest.raises(ValueError, match=r"the mask annotations/train/b\.png has mode RGB"):
        images.check()


def test_a_broken_mask_is_that_images_own_error(tmp_path):
    images = made(tmp_path)
    (tmp_path / "annotations" / "train" / "a.png").write_bytes(b"broken")
    images.check()
    with pytest.raises(OSError, match=r"annotations/train/a\.png"):
        images.mask(0)
    assert images.mask(1) is not None


def test_the_digest_covers_masks_and_labels(tmp_path):
    digests = [made(tmp_path).digest()]
    mask(tmp_path / "annotations" / "train" / "a.png", number=3)
    digests.append(SegmentationFolder(root=str(tmp_path)).digest())
    table(tmp_path / "labels.csv", [("stem", "species"), ("a", "owl"), ("b", "owl"), ("c", "emu")])
    digests.append(SegmentationFolder(root=str(tmp_path)).digest())
    assert len({*digests}) == 3


def test_ade20k_has_scenes_and_names(tmp_path):
    images = Ade20k(**ade20k(tmp_path))
    images.check()
    assert [images.labels(i)["scene"] for i in range(3)] == ["beach", "airport_terminal", "airport_terminal"]
    assert [images.labels(i)["split"] for i in range(3)] == ["training", "training", "validation"]
    assert images.labelling.classes == {0: "unlabelled", 1: "wall", 2: "building, edifice", 3: "sky"}
    assert (images.labelling.void, images.labelling.background) == ((), (0,))
    assert len(Ade20k(root=str(tmp_path), split="validation").paths()) == 1
    with pytest.raises(ValueError, match=r"images\.split=val.*training or validation"):
        Ade20k(root=str(tmp_path), split="val").check()
    (tmp_path / "sceneCategories.txt").unlink()
    with pytest.raises(ValueError, match=r"has no sceneCategories\.txt: unpack ADEChallengeData2016\.zip"):
        Ade20k(root=str(tmp_path)).check()


def test_the_folder_of_masks_can_be_named(tmp_path):
    tree = segmentation(tmp_path / "s")
    (tmp_path / "s" / "annotations").rename(tmp_path / "s" / "labels")
    with pytest.raises(ValueError, match=r"has no annotations: .*images\.masks=NAME"):
        SegmentationFolder(**tree).check()
    images = SegmentationFolder(**tree, masks="labels")
    images.check()
    assert images.mask(0) is not None
