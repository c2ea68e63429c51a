import pytest
from images.trees import fishvista, picture, table

from saev.images import FishVista


def test_images_masks_columns_and_traits(tmp_path):
    images = FishVista(**fishvista(tmp_path))
    images.check()
    assert images.paths()[0] == "Images/chunk_1/INHS_FISH_0.jpg", "found in its chunk"
    expected = {"family": "Cyprinidae", "standardized_species": "Notropis atherinoides", "split": "train"}
    assert images.labels(0) == expected | {"file_name": "Images/chunk/INHS_FISH_0.jpg", "adipose_fin": 0}
    assert {images.labels(i)["split"] for i in range(4)} == {"train", "val", "test"}
    assert images.labelling.classes == {0: "Background", 1: "Head", 2: "Eye", 3: "Dorsal fin"}
    assert images.labelling.background == (0,)


def test_images_in_one_folder_will_do(tmp_path):
    arguments = fishvista(tmp_path)
    for path in [*tmp_path.glob("Images/*/*.jpg")]:
        path.rename(tmp_path / "Images" / path.name)
    assert FishVista(**arguments).paths()[0] == "Images/INHS_FISH_0.jpg"


def test_splits_and_tasks(tmp_path):
    arguments = fishvista(tmp_path)
    assert len(FishVista(**arguments, split="train").paths()) == 2
    with pytest.raises(ValueError, match=r"images\.split=training.*all, test, train or val"):
        FishVista(**arguments, split="training").check()
    with pytest.raises(ValueError, match=r"images\.task=detection"):
        FishVista(**arguments, task="detection").check()
    with pytest.raises(ValueError, match=r"has no classification_train\.csv: clone"):
        FishVista(**arguments, task="classification").check()
    table(tmp_path / "classification_train.csv", [("filename", "family"), ("INHS_FISH_2.jpg", "Esocidae")])
    images = FishVista(**arguments, task="classification")
    images.check()
    assert len(images.paths()) == 1 and images.labelling is None and images.mask(0) is None
    assert images.labels(0) == {"family": "Esocidae", "split": "train"}


def test_images_that_must_be_fetched_apart_are_named_or_dropped(tmp_path):
    arguments = fishvista(tmp_path)
    next(tmp_path.glob("Images/*/INHS_FISH_2.jpg")).unlink()
    says = r"lacks INHS_FISH_2\.jpg of the segmentation csv.*download_and_process_nd_images\.py.*images\.unmatched=drop"
    with pytest.raises(ValueError, match=says):
        FishVista(**arguments).check()
    images = FishVista(**arguments, unmatched="drop")
    with pytest.warns(UserWarning, match=r"left out.*INHS_FISH_2"):
        images.check()
    assert len(images.paths()) == 3


def test_an_image_in_two_splits_is_refused(tmp_path):
    arguments = fishvista(tmp_path)
    (tmp_path / "segmentation_val.csv").write_text((tmp_path / "segmentation_train.csv").read_text())
    with pytest.raises(ValueError, match=r"INHS_FISH_0\.jpg.* are in another split too"):
        FishVista(**arguments).check()


def test_an_image_without_mask_is_named(tmp_path):
    arguments = fishvista(tmp_path)
    (tmp_path / "segmentation_masks" / "images" / "INHS_FISH_1.png").unlink()
    with pytest.raises(ValueError, match=r"no mask in segmentation_masks/images/ for Images/chunk_2/INHS_FISH_1\.jpg"):
        FishVista(**arguments).check()


def test_two_images_of_one_name_are_refused(tmp_path):
    arguments = fishvista(tmp_path)
    picture(tmp_path / "Images" / "chunk_6" / "INHS_FISH_0.jpg")
    with pytest.raises(ValueError, match=r"'INHS_FISH_0\.jpg' means several images"):
        FishVista(**arguments).check()
