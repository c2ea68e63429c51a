"""Labels of images from a column of the recording or a file of one's own, and what is wrong with either."""

import numpy as np
import pytest
from recordings import record

from saev.probing.image_tables import labels_from_column, labels_from_table
from saev.shards import ActivationStore


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ActivationStore(record(tmp_path_factory.mktemp("images") / "data", n_examples=6))


def test_a_table_that_is_not_there_is_named(store, tmp_path):
    with pytest.raises(ValueError, match=r"labels=.*traits\.csv is not there"):
        labels_from_table(store, tmp_path / "traits.csv")


def test_the_values_of_a_column_are_classes(store):
    labels, names = labels_from_column(store, "grid_h" if "grid_h" in store.examples.columns else "n_tokens")
    assert labels.exclusive and labels.n_classes == len(names) and (labels.table == 0).all()
    again, same = labels_from_column(store, "key", names=("nothing",))
    assert same == ("nothing",) and again.labelled.all() and (again.table == 1).all()  # of another class: negatives
    with pytest.raises(ValueError, match="no such column; choose patches, one of"):
        labels_from_column(store, "species")


def test_a_table_says_which_classes_an_image_has(store, tmp_path):
    paths = store.examples["path"].to_list()
    file = tmp_path / "traits.csv"
    file.write_text(f"image,red,big\n{paths[4]},1,0\n{paths[1]},0,true\n{paths[2]},,1\n")
    labels, names = labels_from_table(store, file)
    assert names == ("red", "big") and not labels.exclusive
    assert np.flatnonzero(labels.labelled).tolist() == [1, 4]  # image 2 has a field that nobody knows
    assert labels.of(np.array([4, 1]), np.array([0, 3])).tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,red\n{0},maybe\n", "red='maybe'"),
        ("image,red\nelsewhere.jpg,1\n", "0 of the 6 images of data have a row .*; 1 of 1 rows are no image of it"),
        ("image\n{0}\n", "a column per class"),
    ],
)
def test_wrong_tables_are_named(store, tmp_path, text, message):
    file = tmp_path / "traits.csv"
    file.write_text(text.format(*store.examples["path"].to_list()))
    with pytest.raises(ValueError, match=message):
        labels_from_table(store, file)
