"""Hugging Face data sets, made and saved here; and what is said where one cannot be had."""

import builtins
import io
import sys
import time

import numpy as np
import pytest
from images.trees import huggingface, mask, picture
from PIL import Image

from saev.images import HuggingFaceImages, hub

datasets = pytest.importorskip("datasets", reason="the extra hub is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    datasets.disable_progress_bars()


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_saved_set_gives_pictures_masks_and_names(tmp_path):
    images = HuggingFaceImages(**huggingface(tmp_path / "birds"), void=2)
    images.check()
    assert images.name == "birds" and images.paths() == ["train/00000000", "train/00000001", "train/00000002"]
    expected = {"label": "wren", "label_id": 1, "label_width": 3, "species": "a"}
    assert images.labels(0) == expected and images.labels(1)["species"] == ""
    assert images.open(0).size == (8, 6)
    whole = np.asarray(Image.open(mask(tmp_path / "m.png", 0)))
    assert np.array_equal(images.mask(0), np.where(whole == 2, 65535, whole.astype(int)))
    assert images.labelling.void == (2,)


def test_without_a_mask_column_there_are_no_masks(tmp_path):
    arguments = huggingface(tmp_path / "birds") | {"mask_column": "", "image_column": "image", "label_columns": None}
    images = HuggingFaceImages(**arguments)
    images.check()
    assert images.labelling is None and images.mask(0) is None
    assert images.labels(2) == {"label": "wren", "label_id": 1}, "columns with named classes alone"


def test_splits_of_a_saved_set(tmp_path):
    arguments = huggingface(tmp_path / "birds")
    assert HuggingFaceImages(**arguments, split="test").paths() == ["test/00000000"]
    with pytest.raises(ValueError, match=r"images\.split=val is not in images\.path=.*choose train or test"):
        HuggingFaceImages(**arguments, split="val").check()


def test_columns_are_checked(tmp_path):
    arguments = huggingface(tmp_path / "birds")
    for options, says in [
        ({"mask_column": ""}, r"images\.image_column=null: .*image, mask will do; name one"),
        ({"mask_column": "label"}, r"images\.mask_column=label: .*image, mask will do"),
        ({"image_column": "photo"}, r"images\.image_column=photo: .*image will do"),
        ({"label_columns": ["kind"]}, r"images\.label_columns=kind: .*label, width, species will do"),
        ({"method": "mean"}, r"images\.method=mean"),
    ]:
        with pytest.raises(ValueError, match=says):
            HuggingFaceImages(**(arguments | options)).check()


def test_classes_that_are_not_known(tmp_path):
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["owl"]))
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(3)], "label": [0, -1, None]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    images = HuggingFaceImages(path=str(tmp_path / "set"))
    assert [images.labels(i)["label"] for i in range(3)] == ["owl", "", ""]
    assert [images.labels(i)["label_id"] for i in range(3)] == [0, -1, -1]


def test_a_folder_of_parquet_and_one_file(tmp_path):
    features = datasets.Features(image=datasets.Image(), kind=datasets.Value("string"))
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(3)], "kind": ["a", "b", "c"]}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    for path in (tmp_path / "set", tmp_path / "set" / "train.parquet"):
        images = HuggingFaceImages(path=str(path), label_columns=["kind"])
        images.check()
        assert [np.asarray(images.open(i))[0, 0, 0] for i in range(3)] == [0, 1, 2]
        assert images.labels(1) == {"kind": "b"}


def test_a_folder_of_images_keeps_its_files(tmp_path):
    for number, name in enumerate(["owl/a", "owl/b", "wren/c"]):
        picture(tmp_path / "set" / "train" / f"{name}.png", number)
    images = HuggingFaceImages(path=str(tmp_path / "set"))
    images.check()
    assert [images.labels(i)["label"] for i in range(3)] == ["owl", "owl", "wren"]
    before = images.digest()
    picture(tmp_path / "set" / "train" / "owl" / "a.png", 3)
    assert HuggingFaceImages(path=str(tmp_path / "set")).digest() != before
    assert HuggingFaceImages(path=str(tmp_path / "set"), split="train[:2]").paths()[0] == "train_2_/00000000"
    with pytest.raises(ValueError, match=r"images\.split=val is not available: .*Name another config or split"):
        HuggingFaceImages(path=str(tmp_path / "set"), split="val").check()


def test_broken_pictures_are_oserrors_with_their_key(tmp_path):
    features = datasets.Features(image=datasets.Image())
    rows = {"image": [{"bytes": b"no picture", "path": None}, None, {"bytes": png(1), "path": None}]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    images = HuggingFaceImages(path=str(tmp_path / "set"))
    images.check()
    assert images.labels(1) == {} and len(images.digest()) == 64, "nor are there labels"
    for row in (0, 1):
        with pytest.raises(OSError, match=f"train/0000000{row}"):
            images.open(row)
    assert images.open(2).size == (5, 4)


def test_a_hub_that_does_not_answer_is_reported_within_seconds(monkeypatch):
    import huggingface_hub

    def refuse(self, path, timeout):
        assert timeout <= 10
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"images\.path=owner/birds .*ConnectionError: no route.*images\.path=/path"):
        HuggingFaceImages(path="owner/birds").check()
    assert time.monotonic() - start < 10, "`datasets` alone tries for 23 s"
    assert not datasets.config.HF_HUB_OFFLINE, "and is put back"


def test_offline_sends_no_request(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", None)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        HuggingFaceImages(path="owner/birds").check()


def test_a_hub_without_the_set_has_answered(monkeypatch):
    import huggingface_hub

    def unknown(self, path, timeout):
        error = huggingface_hub.errors.RepositoryNotFoundError
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unknown)
    assert hub.unreachable("owner/birds") is None


def test_the_missing_extra_is_named(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "datasets")
    with pytest.raises(ValueError, match=r"needs the package `datasets`: install the extra hub \(uv sync --extra hub"):
        HuggingFaceImages(path=str(tmp_path)).check()


def test_a_path_that_datasets_would_take_for_a_pattern_is_refused(tmp_path):
    (tmp_path / "lab [x]").mkdir()
    with pytest.raises(ValueError, match=r"images\.path=.*lab \[x\]: the package `datasets` takes .* link the folder"):
        HuggingFaceImages(path=str(tmp_path / "lab [x]")).check()
