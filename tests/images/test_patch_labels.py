"""Patch labels against a loop over patches, on masks of any ids."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.images import VOID, Labelling, patch_labels
from saev.images.patch_labels import METHODS, as_ids


def by_loop(mask, grid, labelling):
    """The definition, a patch at a time."""
    p, q = mask.shape[0] // grid[0], mask.shape[1] // grid[1]
    labels, fractions = [], []
    for top in range(0, mask.shape[0], p):
        for left in range(0, mask.shape[1], q):
            pixels = mask[top : top + p, left : left + q].ravel().tolist()
            votes = Counter(VOID if id in labelling.void else id for id in pixels)
            foreground = {id: n for id, n in votes.items() if id != VOID and id not in labelling.background}
            if labelling.method == "majority" or not foreground:
                foreground = votes
            winner = min(foreground, key=lambda id: (-votes[id], id == VOID, id))
            labels.append(winner)
            fractions.append(votes[winner] / len(pixels))
    return np.array(labels, np.uint16), np.array(fractions, np.float16)


@st.composite
def cases(draw):
    grid = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    patch = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    pool = draw(st.lists(st.integers(0, VOID), min_size=1, max_size=6, unique=True))
    shape = (grid[0] * patch[0], grid[1] * patch[1])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.uint16, np.int32, np.int64]))
    mask = rng.choice(pool, size=shape).astype(dtype)
    some = st.lists(st.sampled_from(pool), max_size=2, unique=True)
    return mask, grid, (draw(st.sampled_from(METHODS)), tuple(draw(some)), tuple(draw(some)))


@settings(deadline=None, max_examples=300)
@given(cases())
def test_labels_are_those_of_the_loop(case):
    mask, grid, options = case
    labels, fractions = patch_labels(mask, grid, Labelling(*options))
    expected, expected_fractions = by_loop(mask, grid, Labelling(*options))
    assert labels.dtype == np.uint16 and fractions.dtype == np.float16
    assert np.array_equal(labels, expected)
    assert np.array_equal(fractions, expected_fractions)


def test_tens_of_thousands_of_classes():
    mask = np.random.default_rng(0).permutation(60000)[: 200 * 200].reshape(200, 200)
    labels, fractions = patch_labels(mask, (100, 100), Labelling())
    assert np.array_equal(labels, mask.reshape(100, 2, 100, 2).min(axis=(1, 3)).ravel()), "all tie: the lower id"
    assert (fractions == 0.25).all()


MASK = np.array([[0, 0, 9, 255], [0, 7, 255, 255]], np.uint8)


@pytest.mark.parametrize(
    ("labelling", "labels", "fractions"),
    [
        (Labelling(), [0, 255], [0.75, 0.75]),
        (Labelling(void=(255,)), [0, VOID], [0.75, 0.75]),
        (Labelling("prefer-foreground", void=(255,), background=(0,)), [7, 9], [0.25, 0.25]),
        (Labelling("prefer-foreground", void=(255,), background=(0, 7)), [0, 9], [0.75, 0.25]),
    ],
)
def test_what_the_options_mean(labelling, labels, fractions):
    found = patch_labels(MASK, (1, 2), labelling)
    assert found[0].tolist() == labels and found[1].tolist() == fractions


def test_ties_prefer_what_is_not_void():
    mask = np.array([[3, 65535], [3, 65535]], np.uint16)
    labels, fractions = patch_labels(mask, (1, 1), Labelling())
    assert labels.tolist() == [3] and fractions.tolist() == [0.5]


def test_padding_is_void_without_being_named():
    labels, _ = patch_labels(np.full((4, 4), 65535, np.uint16), (2, 2), Labelling("prefer-foreground"))
    assert (labels == VOID).all()


@pytest.mark.parametrize("id", [-1, 65536, 1 << 24])
def test_an_id_out_of_range_is_refused_unless_it_is_void(id):
    mask = np.array([[id, 1]], np.int32)
    with pytest.raises(ValueError, match=rf"has the id {id}.*images\.void"):
        patch_labels(mask, (1, 2), Labelling())
    with pytest.raises(ValueError, match=rf"has the id {id}"):
        patch_labels(mask, (1, 2), Labelling(void=(7,)))
    assert patch_labels(mask, (1, 2), Labelling(void=(id,)))[0].tolist() == [VOID, 1]


def test_a_mask_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"5 x 4 pixels.*2 x 2 patches"):
        patch_labels(np.zeros((5, 4), np.uint8), (2, 2), Labelling())


def test_a_labelling_is_checked_and_goes_into_json():
    with pytest.raises(ValueError, match=r"images\.method=mean.*majority or prefer-foreground"):
        Labelling("mean")
    with pytest.raises(ValueError, match=r"images\.void=\['sky'\]"):
        as_ids("void", ["sky"])
    labelling = Labelling("prefer-foreground", as_ids("void", [255, 254]), (0,), classes={2: "owl", 0: "sky"})
    expected = {"method": "prefer-foreground", "void": [254, 255], "background": [0]}
    assert json.loads(json.dumps(labelling.info())) == expected | {"classes": {"0": "sky", "2": "owl"}}
