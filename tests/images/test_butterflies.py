import pytest
from images.trees import butterflies, picture, table

from saev.images import Butterflies


def test_columns_are_those_of_the_table(tmp_path):
    images = Butterflies(**butterflies(tmp_path))
    images.check()
    assert images.paths() == ["erato/0_CAM0001_d.JPG", "erato/1_CAM0001_v.JPG", "erato/2_CAM0002_d.JPG"]
    assert images.labels(1) == {"specimen": "CAM0001", "species": "H. erato", "view": "ventral"}


def test_the_path_column_may_be_any(tmp_path):
    arguments = butterflies(tmp_path)
    rows = [(n, f"erato/{n}_{name}") for n, name in enumerate(["CAM0001_d", "CAM0001_v", "CAM0002_d"])]
    table(tmp_path / "other.csv", [("X", "file"), *rows])
    with pytest.raises(ValueError, match=r"none of its 3 rows \(0, 1.*names one of the 3 images.*images\.path_column"):
        Butterflies(**arguments, metadata="other.csv").check()
    images = Butterflies(**arguments, metadata="other.csv", path_column="file")
    assert [images.labels(i)["X"] for i in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"has no column 'Image_name': its first line is X, file"):
        Butterflies(**arguments, metadata="other.csv", path_column="Image_name").check()


def test_what_does_not_match_is_named_or_dropped(tmp_path):
    arguments = butterflies(tmp_path)
    (tmp_path / "erato" / "0_CAM0001_d.JPG").unlink()
    picture(tmp_path / "sara" / "new.jpg", 3)
    says = r"1 rows have no file: 0_CAM0001_d\.JPG; 1 images have no row: sara/new\.jpg"
    with pytest.raises(ValueError, match=rf"{says}.*images\.unmatched=drop"):
        Butterflies(**arguments).check()
    images = Butterflies(**arguments, unmatched="drop")
    with pytest.warns(UserWarning, match=rf"left out.*{says}"):
        images.check()
    assert images.paths() == ["erato/1_CAM0001_v.JPG", "erato/2_CAM0002_d.JPG"]
    with pytest.raises(ValueError, match=r"images\.unmatched=keep.*stop or drop"):
        Butterflies(**arguments, unmatched="keep").check()


def test_a_missing_table_is_named(tmp_path):
    arguments = butterflies(tmp_path)
    with pytest.raises(ValueError, match=r"has no specimens\.csv: .*images\.metadata=NAME\.csv"):
        Butterflies(**arguments, metadata="specimens.csv").check()


def test_the_digest_covers_the_table(tmp_path):
    arguments = butterflies(tmp_path)
    before = Butterflies(**arguments).digest()
    (tmp_path / "metadata.csv").write_text(
        (tmp_path / "metadata.csv").read_text().replace("erato,ventral", "sara,ventral")
    )
    assert Butterflies(**arguments).digest() != before
