import numpy as np
import pytest
from images.trees import cifar10

from saev.images import Cifar10


def test_records_are_read_as_the_archive_says(tmp_path):
    arguments = cifar10(tmp_path)
    record = np.zeros(3073, np.uint8)
    record[0], record[1], record[1 + 1024], record[-1] = 6, 200, 100, 50
    (tmp_path / "test_batch.bin").write_bytes(record.tobytes())
    images = Cifar10(**arguments, split="test")
    images.check()
    assert images.paths() == ["test_batch.bin/00000"]
    assert images.labels(0) == {"class": "frog", "class_id": 6, "split": "test"}
    pixels = np.asarray(images.open(0))
    assert pixels.shape == (32, 32, 3)
    assert pixels[0, 0].tolist() == [200, 100, 0] and pixels[31, 31].tolist() == [0, 0, 50]


def test_splits(tmp_path):
    arguments = cifar10(tmp_path)
    assert [len(Cifar10(**arguments, split=split).paths()) for split in ("train", "test", "all")] == [10, 2, 12]
    assert {Cifar10(**arguments).labels(i)["split"] for i in range(12)} == {"train", "test"}
    with pytest.raises(ValueError, match=r"images\.split=val.*train, test or all"):
        Cifar10(**arguments, split="val").check()


def test_pickles_are_not_read(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}.")
    (tmp_path / "batches.meta").write_bytes(b"\x80\x02}.")
    with pytest.raises(
        ValueError, match=r"has no data_batch_1\.bin.*cifar-10-binary\.tar\.gz.*pickles, which are not read"
    ):
        Cifar10(root=str(tmp_path)).check()


def test_other_files_are_refused(tmp_path):
    arguments = cifar10(tmp_path)
    whole = (tmp_path / "data_batch_3.bin").read_bytes()
    for data, why in [
        (whole[:-1], r"its 6145 bytes are not records of 3073"),
        (b"\xff" * 3073, "more than 10 classes"),
        (b"", "its 0 bytes"),
    ]:
        (tmp_path / "data_batch_3.bin").write_bytes(data)
        with pytest.raises(ValueError, match=rf"data_batch_3\.bin is not CIFAR-10's \({why}"):
            Cifar10(**arguments).check()


def test_a_file_that_is_cut_later_is_an_oserror_with_the_key(tmp_path):
    images = Cifar10(**cifar10(tmp_path))
    images.check()
    (tmp_path / "data_batch_2.bin").write_bytes(b"\0" * 3073)
    with pytest.raises(OSError, match=r"data_batch_2\.bin/00001"):
        images.open(3)
