import numpy as np
import pytest
from trait_evaluation.sources.recorded import recorded

from saev.trait_evaluation.sources import Table

PATHS = ["train/a.jpg", "train/b.jpg", "val/c.jpg", "val/d.jpg"]
ALL = np.arange(4)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("tables") / "birds", [{"path": path} for path in PATHS])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "image,red,big bill\na,1,0\nval/c.jpg,,1\nd.jpg,0,NA\n"),
        ("t.csv", '\ufeffimage;"red";big bill\r\na;1;0\r\n"val/c.jpg";;1\r\n\r\nd.jpg;0;NA\r\n'),
        ("t.tsv", "image\tred\tbig bill\na\tTRUE\tFALSE\nval/c.jpg\t\t1.0\nd.jpg\t0.0\t?\n"),
    ],
)
def test_rows_are_joined_to_images_and_empty_fields_are_unknown(store, tmp_path, caplog, name, text):
    caplog.set_level("INFO")
    (tmp_path / name).write_bytes(text.encode())
    table = Table(str(tmp_path / name)).table(store, ALL)
    assert table.names == ("red", "big bill")
    assert table.values.tolist() == [[1, 0], [-1, -1], [-1, 1], [0, -1]]
    assert "3 of the 4 images of birds have a row (not train/b.jpg)" in caplog.text
    part = Table(str(tmp_path / name)).table(store, np.array([3, 0]))
    assert part.values.tolist() == [[0, -1], [1, 0]]


def test_the_key_and_columns_that_are_no_traits(store, tmp_path):
    (tmp_path / "t.csv").write_text("species,image,red\nwren,a,1\nowl,b,0\n")
    source = Table(str(tmp_path / "t.csv"), key="image", ignore=("species",))
    assert source.table(store, ALL).values.T.tolist() == [[1, 0, -1, -1]]
    with pytest.raises(
        ValueError, match=r"t\.csv: 'a' has species='wren'; give 1 or 0 .* or traits\.ignore=\[species\]"
    ):
        Table(str(tmp_path / "t.csv"), key="image").table(store, ALL)
    with pytest.raises(
        ValueError, match=r"traits\.ignore=\[specie\]: no column is called 'specie'; did you mean species"
    ):
        Table(str(tmp_path / "t.csv"), key="image", ignore=("specie",)).table(store, ALL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,red\na,1\nb,2\n", r"traits\.path=.*t\.csv: 'b' has red='2'; give 1 or 0"),
        ("image,red\na,1\na,0\nb,1\n", r"t\.csv, line 3: second row of 'a'"),
        ("image,red\na,1\ntrain/a.jpg,0\n", r"'a' and 'train/a\.jpg' both mean train/a\.jpg"),
        (
            "image,red\na,1\nx,1\n",
            r"1 of the 4 images.*1 of 2 rows are no image of it \(x\).*traits\.min_labelled=0\.25",
        ),
        ("image\na\nb\n", "has no trait: give a row per image"),
    ],
)
def test_wrong_tables_are_refused(store, tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        Table(str(tmp_path / "t.csv")).table(store, ALL)


def test_few_images_are_enough_where_that_is_said(store, tmp_path):
    (tmp_path / "t.csv").write_text("image,red\na,1\n")
    assert Table(str(tmp_path / "t.csv"), min_labelled=0.25).table(store, ALL).counts().T.tolist() == [[1, 0, 3]]


def test_a_file_that_is_not_there_is_an_error_before_any_recording_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"traits\.path is not set: give a csv"):
        Table().check()
    with pytest.raises(ValueError, match=r"traits\.path=.*none\.csv is not a file"):
        Table(str(tmp_path / "none.csv")).check()
    with pytest.raises(ValueError, match=r"traits\.min_labelled=2: must be .*at most 1"):
        Table("t.csv", min_labelled=2)
