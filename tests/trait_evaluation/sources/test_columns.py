import numpy as np
import pytest
from trait_evaluation.sources.recorded import recorded

from saev.trait_evaluation.sources import Columns
from saev.trait_evaluation.table import TraitTable, shared

ROWS = [
    {"sex": "f", "wild": 1, "year": 1999, "adult": "TRUE", "seen": ""},
    {"sex": "m", "wild": 0, "year": 5, "adult": "no", "seen": ""},
    {"sex": "NA", "wild": None, "year": None, "adult": "", "seen": ""},
    {"sex": "f", "wild": 0, "year": 12, "adult": "?", "seen": ""},
]
ALL = np.arange(4)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("columns") / "birds", ROWS)


def test_ones_and_zeros_are_a_trait_and_other_values_one_each(store):
    table = Columns(("sex", "wild", "year", "adult", "sex")).table(store, ALL)
    assert table.names == ("sex=f", "sex=m", "wild", "year=5", "year=12", "year=1999", "adult")
    assert table.values.tolist() == [
        [1, 0, 1, 0, 0, 1, 1],
        [0, 1, 0, 1, 0, 0, 0],
        [-1, -1, -1, -1, -1, -1, -1],
        [1, 0, 0, 0, 1, 0, -1],
    ]
    assert table.counts().tolist() == [[2, 1, 1, 1, 1, 1, 1], [1, 2, 2, 2, 2, 2, 1], [1, 1, 1, 1, 1, 1, 2]]


def test_rows_are_the_given_images_and_traits_do_not_depend_on_them(store):
    source = Columns("sex")  # as traits.columns=sex
    whole, part = source.table(store, ALL), source.table(store, np.array([3, 1]))
    assert part.names == whole.names and (part.values == whole.values[[3, 1]]).all()


def test_what_cannot_be_a_trait_is_named(store):
    with pytest.raises(ValueError, match=r"traits\.columns=\[\]: give columns"):
        Columns().check()
    with pytest.raises(ValueError, match=r"traits\.columns=\[sx\]: birds has no column 'sx'; did you mean sex\?"):
        Columns(("sx",)).table(store, ALL)
    with pytest.raises(ValueError, match=r"'year' has 3 values \(5, 12, 1999\).*traits\.max_values=3"):
        Columns(("year",), max_values=2).table(store, ALL)
    with pytest.raises(ValueError, match=r"column 'seen' of birds is empty"):
        Columns(("seen",)).table(store, ALL)
    with pytest.raises(ValueError, match=r"traits\.max_values=1: must be at least 2"):
        Columns(("sex",), max_values=1)


def test_two_tables_are_joined_by_the_names_of_traits(caplog):
    caplog.set_level("INFO")
    train = TraitTable(("a", "b", "c"), np.array([[1, 0, -1]], np.int8))
    test = TraitTable(("d", "c", "a"), np.array([[0, 1, -1]], np.int8))
    left, right = shared(train, test)
    assert left.names == right.names == ("a", "c")
    assert left.values.tolist() == [[1, -1]] and right.values.tolist() == [[-1, 1]]
    assert "1 traits are in the training units alone and left out: b" in caplog.text
    with pytest.raises(ValueError, match="no trait is in both"):
        shared(train.select(["b"]), test)
    with pytest.raises(ValueError, match="two traits are called a"):
        TraitTable(("a", "a"), np.zeros((1, 2), np.int8))
