"""What a token is: the label recorded of it, by class number, or its image's row in a table."""

import dataclasses

import numpy as np
import pytest
from recordings import labels_of, record

from saev.probing.labels import Classes, ImageLabels, TokenLabels, check_same_names, classes_of
from saev.shards import ActivationStore
from saev.shards.selection import select

EXAMPLE, TOKEN = np.array([7, 0, 7, 39, 12]), np.array([1, 16, 9, 4, 0])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Image 5 cannot be read, so that tokens are not where their images' numbers say."""
    return ActivationStore(record(tmp_path_factory.mktemp("labels") / "data", skipped=(5,), labels=True))


def whole(store):
    stored = store.tokens_per_image(1)
    return select(stored, np.arange(len(stored)), store.role_slice("all"))


def test_a_token_has_the_label_recorded_of_it(store):
    labels = TokenLabels(store, 1, Classes((2, 0, 3), ("", "", "")))
    recorded = [int(labels_of(e, 1, 16)[t]) for e, t in zip(EXAMPLE, TOKEN, strict=True)]
    assert labels.of(EXAMPLE, TOKEN).tolist() == [{2: 0, 0: 1, 3: 2, 65535: -1}.get(id, 3) for id in recorded]
    ignoring = TokenLabels(store, 1, Classes((2, 0, 3), ("", "", "")), ignore=(1,))
    assert set(ignoring.of(EXAMPLE, TOKEN)) <= {-1, 0, 1, 2} and 3 in labels.of(EXAMPLE, TOKEN)
    spans, recorded = whole(store), store.token_labels
    assert ignoring.left_out(spans) == {"unlabelled": (recorded == 65535).sum(), "ignored": (recorded == 1).sum()}
    assert labels.left_out(spans)["ignored"] == 0
    assert labels.ignored == (1, 65535)  # what the stream leaves out: the other id, and what is not labelled
    assert not labels.labelled[5] and labels.labelled.sum() == 39


def test_counts_are_those_of_looking_up_every_token(store):
    labels = TokenLabels(store, 1, Classes((2, 0, 3), ("", "", "")))
    spans = whole(store)
    found = np.concatenate(
        [labels.of(np.full(b - a, e), np.arange(a, b)) for e, a, b in zip(*spans, strict=True)]  # token by token
    )
    assert labels.counts(spans).tolist() == np.bincount(found[found >= 0], minlength=3)[:3].tolist()


@pytest.mark.parametrize("exclusive", [True, False])
def test_labels_of_images_are_told_to_their_tokens(store, exclusive):
    rng = np.random.default_rng(0)
    table = rng.integers(-1, 3, 40) if exclusive else rng.random((40, 3)) < 0.3
    labels = ImageLabels(table, 3)
    assert labels.exclusive == exclusive and labels.n_classes == 3
    np.testing.assert_array_equal(labels.of(EXAMPLE, TOKEN), table[EXAMPLE])
    of_each = np.repeat(table, store.tokens_per_image(1), axis=0)
    expected = [(of_each == c).sum() for c in range(3)] if exclusive else of_each.sum(0)
    np.testing.assert_array_equal(labels.counts(whole(store)), expected)
    assert labels.labelled.tolist() == ((table >= 0).tolist() if exclusive else [True] * 40)


def test_images_whose_labels_are_not_known_are_not_labelled():
    known = np.array([True, False, True])
    assert ImageLabels(np.ones((3, 2), bool), counted=known).labelled.tolist() == known.tolist()
    assert ImageLabels(np.array([0, 1, -1]), counted=known).labelled.tolist() == [True, False, False]


def test_classes_are_those_that_occur_in_training(store):
    first = np.array([0])  # its patches have labels 0 to 3, three of each and one more round
    assert classes_of(store, 1, first).ids == (0, 1, 2, 3)
    assert classes_of(store, 1, first, ignore=(1, 9)).ids == (0, 2, 3)
    assert classes_of(store, 1, first, ids=[3, 1]).ids == (3, 1)
    with pytest.raises(ValueError, match=r"no labelled tokens \(tokens=patches\) beside ignore_labels=\[0, 1, 2, 3\]"):
        classes_of(store, 1, first, ignore=(0, 1, 2, 3))


@pytest.mark.parametrize("ids", [(), (1, 1), (-1,), (65535,)])
def test_ids_that_cannot_be_classes_are_refused(ids):
    with pytest.raises(ValueError, match="classes="):
        Classes(ids, ("",) * len(ids))


def test_a_recording_without_labels_is_refused(tmp_path):
    store = ActivationStore(record(tmp_path / "plain", n_examples=3))
    with pytest.raises(ValueError, match="has no patch labels: record an image set with masks"):
        TokenLabels(store, 1, Classes((0,), ("",)))

    check_same_names(Classes((0,), ("sky",)), store)


def test_recordings_that_name_a_class_differently_are_refused(store, monkeypatch):
    named = dataclasses.replace(store.manifest, labels={"classes": {"0": "sea"}})
    monkeypatch.setattr(store, "manifest", named)
    check_same_names(Classes((0, 1), ("sea", "sky")), store)
    with pytest.raises(ValueError, match="class 0 is 'sky' in the training data and 'sea'"):
        check_same_names(Classes((0,), ("sky",)), store)
