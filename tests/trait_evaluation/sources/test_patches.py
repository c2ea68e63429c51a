import numpy as np
import pytest
from trait_evaluation.sources.recorded import recorded

from saev.trait_evaluation.sources import Masks, Presence

NAMES = {0: "ground", 1: "head", 2: "fin", 3: "tail"}
VOID = 65535
LABELS = [[0] * 9 + [1], [1, 1, 2, 2], [VOID, VOID], [VOID, 2, 0, 7], [0, 0]]
ALL = np.arange(5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("patches") / "fish", [{}] * len(LABELS), LABELS, NAMES)


def test_a_class_is_present_with_a_fraction_of_the_labelled_patches(store):
    table = Presence(min_fraction=0.1).table(store, ALL)
    assert table.names == ("ground", "head", "fin", "class 7")
    assert table.values.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [-1] * 4, [1, 0, 1, 1], [1, 0, 0, 0]]
    assert Presence(min_fraction=0.11).table(store, ALL).values[0].tolist() == [1, 0, 0, 0]
    assert Presence(min_fraction=0).table(store, ALL).values[1].tolist() == [0, 1, 1, 0]


def test_chosen_and_ignored_classes(store):
    table = Presence(classes=("tail", "fin"), ignore_labels=("ground",), min_fraction=0.5).table(store, ALL)
    assert table.names == ("tail", "fin")
    assert table.values.tolist() == [[0, 0], [0, 1], [-1, -1], [0, 1], [-1, -1]]  # of patches that are not ground


def test_rows_are_the_given_images(store):
    whole, given = Presence().table(store, ALL), np.array([3, 0, 3])
    assert (Presence().table(store, given).values == whole.values[given]).all()


def test_a_unit_is_a_labelled_patch(store):
    units = Masks(classes=("head", 7), ignore_labels=(0,)).table(store, np.array([0, 1, 2, 3]), layer=4)
    assert units.example.tolist() == [0, 1, 1, 1, 1, 3, 3]
    assert units.token.tolist() == [10, 1, 2, 3, 4, 2, 4]  # a cls token comes before the patches
    assert units.table.names == ("head", "class 7")
    assert units.table.values.tolist() == [[1, 0], [1, 0], [1, 0], [0, 0], [0, 0], [0, 0], [0, 1]]


def test_masks_agree_with_a_loop_over_tokens(store):
    units = Masks().table(store, ALL, layer=4)
    expected = [(i, j + 1, id) for i, ids in enumerate(LABELS) for j, id in enumerate(ids) if id != VOID]
    ids = np.array([0, 1, 2, 7])[units.table.values.argmax(1)]
    assert list(zip(units.example, units.token, ids, strict=True)) == expected
    assert (units.table.values.sum(1) == 1).all()


def test_what_is_not_there_is_named(store, tmp_path):
    with pytest.raises(ValueError, match=r"traits\.classes=\[hed\]: no class is called 'hed'; did you mean head\?"):
        Presence(classes=("hed",)).table(store, ALL)
    with pytest.raises(ValueError, match=r"traits\.ignore_labels=\[0,1,2,7\] leaves no class of fish"):
        Masks(ignore_labels=(0, 1, 2, 7)).table(store, ALL, layer=4)
    with pytest.raises(ValueError, match="has no patch labels: record an image set with masks"):
        Presence().table(recorded(tmp_path / "plain", [{}] * 2), np.arange(2))
    with pytest.raises(ValueError, match=r"traits\.min_fraction=2: must be at most 1"):
        Presence(min_fraction=2)
