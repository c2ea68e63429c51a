import pytest
from images.trees import BIRDS, cub200, cub200_tree

from saev.images import Cub200


def test_the_archive_gives_its_own_numbers(tmp_path):
    images = Cub200(**cub200(tmp_path))
    images.check()
    assert images.paths() == [f"images/{kind}/bird_{n}.jpg" for n, kind in enumerate(BIRDS)]
    assert images.labels(0) == {"class": BIRDS[0], "class_id": 1, "split": "test", "image_id": 1}
    assert images.labels(2) == {"class": BIRDS[2], "class_id": 2, "split": "train", "image_id": 3}


def test_a_tree_of_splits_has_the_same_classes(tmp_path):
    images = Cub200(**cub200_tree(tmp_path))
    assert images.labels(0) == {"class": BIRDS[0], "split": "test", "class_id": 1}
    assert [images.labels(i)["class_id"] for i in range(3)] == [1, 1, 2]
    for folder in [*tmp_path.glob("*/0*")]:
        folder.rename(folder.with_name(folder.name.partition(".")[2]))
    assert Cub200(root=str(tmp_path)).labels(0) == {"class": "Black_footed_Albatross", "split": "test"}


@pytest.mark.parametrize("build", [cub200, cub200_tree])
def test_splits(tmp_path, build):
    arguments = build(tmp_path)
    assert [len(Cub200(**arguments, split=split).paths()) for split in ("train", "test", "all")] == [2, 1, 3]
    with pytest.raises(ValueError, match=r"images\.split=val.*train, test or all"):
        Cub200(**arguments, split="val").check()


def test_one_split_of_a_tree_is_enough_where_it_is_asked_for(tmp_path):
    arguments = cub200_tree(tmp_path)
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    assert len(Cub200(**arguments, split="train").paths()) == 2
    with pytest.raises(ValueError, match=r"has no test: unpack CUB_200_2011\.tgz"):
        Cub200(**arguments).check()


def test_what_the_archive_lacks_is_named(tmp_path):
    arguments = cub200(tmp_path)
    (tmp_path / "images" / BIRDS[2] / "bird_2.jpg").unlink()
    with pytest.raises(ValueError, match=rf"images/ lacks {BIRDS[2]}/bird_2\.jpg of images\.txt"):
        Cub200(**arguments).check()
    cub200(tmp_path / "whole")
    (tmp_path / "whole" / "train_test_split.txt").write_text("1 0\n3 1\n")
    with pytest.raises(ValueError, match=r"image 2 of images\.txt has no line in .*train_test_split\.txt"):
        Cub200(root=str(tmp_path / "whole")).check()
    (tmp_path / "whole" / "classes.txt").unlink()
    with pytest.raises(ValueError, match=r"has no classes\.txt: unpack"):
        Cub200(root=str(tmp_path / "whole")).check()


def test_the_folder_above_is_recognised(tmp_path):
    cub200(tmp_path / "CUB_200_2011")
    with pytest.raises(ValueError, match=r"did you mean images\.root=.*CUB_200_2011\?"):
        Cub200(root=str(tmp_path)).check()
