"""The two sides of an evaluation: splits, groups, the null of permuted traits."""

import dataclasses

import numpy as np
import pytest
from trait_evaluation.sources.recorded import recorded

from saev.trait_evaluation.settings import TraitsSettings
from saev.trait_evaluation.sources import Columns, Masks
from saev.trait_evaluation.units import Side, image_sides, permuted, rankable, split_of, token_sides

ROWS = [
    {"split": "train" if i < 7 else "test", "specimen": f"s{i // 2}", "red": int(i % 3 == 0), "all": 1}
    for i in range(12)
]
COLUMNS = Columns(("red", "all"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("units") / "one", ROWS)


def test_a_split_column_says_which_images_are_for_training(store):
    train, test = split_of(store, None, TraitsSettings(split="split"), 4)
    assert train.tolist() == list(range(7)) and test.tolist() == list(range(7, 12))
    with pytest.raises(ValueError, match=r"split=nosplit: .* did you mean split\?"):
        split_of(store, None, TraitsSettings(split="nosplit"), 4)
    with pytest.raises(ValueError, match="0 of 12 images are `train`"):
        split_of(store, None, TraitsSettings(split="specimen"), 4)


def test_without_one_a_fraction_is_held_out_and_groups_are_not_divided(store):
    train, test = split_of(store, None, TraitsSettings(test_fraction=0.25), 4)
    assert len(test) == 3 and {*train} | {*test} == {*range(12)}
    train, test = split_of(store, None, TraitsSettings(group="specimen"), 4)
    assert not {i // 2 for i in train} & {i // 2 for i in test} and len(train) + len(test) == 12
    _, side, other = image_sides(COLUMNS, store, None, (train, test), "specimen")
    assert side.n_clusters == len({i // 2 for i in train}) and other.n_clusters == len({i // 2 for i in test})


def test_two_recordings_have_the_traits_that_both_have(store, tmp_path):
    other = recorded(tmp_path / "two", [{**row, "sex": "f"} for row in ROWS], [[0, 0]] * 12, {0: "x"})
    with pytest.raises(ValueError, match="training recording itself"):
        split_of(store, store, TraitsSettings(), 4)
    images = split_of(store, other, TraitsSettings(), 4)
    assert [len(side) for side in images] == [12, 12]
    names, train, test = image_sides(COLUMNS, store, other, images, None)
    assert names == ("red", "all") and train.labels.shape == test.labels.shape == (12, 2)


def test_a_group_on_both_sides_is_refused(store, tmp_path):
    with pytest.raises(ValueError, match="group=specimen: s3 on both sides"):
        split_of(store, None, TraitsSettings(split="split", group="specimen"), 4)
    rows = [{**row, "specimen": "s5" if i == 3 else "" if i == 4 else f"t{i}"} for i, row in enumerate(ROWS)]
    other = recorded(tmp_path / "two", rows, [[0, 0]] * 12, {0: "x"})
    with pytest.raises(ValueError, match="s5 on both sides"):
        split_of(store, other, TraitsSettings(group="specimen"), 4)


def test_traits_of_every_unit_are_left_out_and_at_least_one_must_be_left(store, caplog):
    names, train, test = image_sides(COLUMNS, store, None, (np.arange(6), np.arange(6, 12)), None)
    kept, train, _ = rankable(names, train, test)
    assert kept == ("red",) and train.labels.shape == (6, 1) and "left out: all" in caplog.text
    with pytest.raises(ValueError, match="none of 1 has both a positive and a negative"):
        rankable(("all",), *(dataclasses.replace(side, labels=np.ones((6, 1), np.int8)) for side in (train, test)))


def test_permuted_images_have_the_traits_of_another_one(store):
    labels = np.arange(9, dtype=np.int8)[:, None]
    side = Side(store, np.arange(9), None, labels, np.arange(9))
    other = permuted(side, 0).labels
    assert sorted(other.ravel()) == list(range(9)) and not (other == labels).any()


def test_permuted_tokens_have_the_traits_of_another_image_in_order(store):
    example = np.repeat([3, 5, 8], [2, 3, 2])
    labels = np.array([30, 31, 50, 51, 52, 80, 81], np.int8)[:, None]
    other = permuted(Side(store, example, np.arange(7), labels, example), 0).labels.ravel().tolist()
    images = [other[:2], other[2:5], other[5:]]
    assert all(len({value // 10 for value in part}) == 1 for part in images)
    assert all(part[0] // 10 != image for part, image in zip(images, (3, 5, 8), strict=True))
    assert images[1][2] == images[1][0]  # the third token of an image of three, from one of two: modulo


def test_tokens_are_sampled_evenly_from_the_images(tmp_path):
    labels = [[1, 2] * 8 if i % 2 else [2, 2] for i in range(10)]
    store = recorded(tmp_path / "masks", [{} for _ in labels], labels, {1: "head", 2: "fin"})
    settings = TraitsSettings(sample_tokens=20)
    names, train, test = token_sides(Masks(), store, None, (np.arange(5), np.arange(5, 10)), settings, 4)
    assert names == ("head", "fin") and len(train.example) == 20 == len(test.example)
    assert np.bincount(train.example).tolist() == [2, 7, 2, 7, 2]  # all of an image of two, equally many of the others
    for side in (train, test):
        at = [labels[e][t - 1] for e, t in zip(side.example, side.token, strict=True)]  # token 0 is the cls token
        assert side.labels.argmax(1).tolist() == [id - 1 for id in at]
    with pytest.raises(ValueError, match="tokens=cls: traits=masks are of patches"):
        token_sides(Masks(), store, None, (np.arange(5), np.arange(5, 10)), TraitsSettings(tokens="cls"), 4)


def test_an_image_without_selected_tokens_is_on_no_side(tmp_path):
    labels = [[0, 0], [], [0, 0], [0], [], [0, 0]]
    store = recorded(tmp_path / "some", [{} for _ in labels], labels, {0: "x"})
    train, test = split_of(store, None, TraitsSettings(), 4)
    assert {*train} | {*test} == {0, 2, 3, 5}
    train, test = split_of(store, None, TraitsSettings(tokens="all"), 4)
    assert len(train) + len(test) == 6


def test_two_recordings_need_no_split_column(store, tmp_path):
    other = recorded(tmp_path / "two", ROWS, [[0, 0]] * 12, {0: "x"})
    with pytest.raises(ValueError, match="split=split: test="):
        split_of(store, other, TraitsSettings(split="split"), 4)
