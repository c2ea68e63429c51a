"""The small labelled sample: whose tokens, how many, and always the same."""

import numpy as np
import pytest
import torch
from recordings import acts_of, labels_of, record

from saev.probing.sample import draw_sample, labelled_store
from saev.shards import ActivationStore

WIDTH = 96  # so that no token is without a feature, and none like another


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ActivationStore(
        record(tmp_path_factory.mktemp("sample") / "data", n_examples=20, d_model=WIDTH, skipped=(3,), labels=True)
    )


def images_of(tokens):
    """(image, position, place in the sample) of each token, found by its activations."""
    every = torch.from_numpy(np.stack([acts_of(i, 1, 17, WIDTH) for i in range(20)]))
    found = (every[:, :, None] == tokens.acts).all(-1).nonzero()
    assert len(found) == len(tokens.acts)
    return found[found[:, 2].argsort()]


def test_tokens_come_with_their_classes(store):
    sample = draw_sample(store, 1, "patches", n_images=8)
    assert sample.classes.ids == (0, 1, 2, 3)
    for half in (sample.train, sample.val):
        assert len(half.acts) == 4 * 16
        for image, token, at in images_of(half).tolist():
            assert labels_of(image, 1, 16)[token] == half.labels[at] != 65535


def test_no_image_is_in_both_halves(store):
    train, val = (set(images_of(half)[:, 0].tolist()) for half in draw_sample(store, 1, "patches", n_images=9)[:2])
    assert len(train) == 5 and len(val) == 4 and not train & val


def test_unreadable_images_are_not_drawn_and_all_others_may_be(store):
    sample = draw_sample(store, 1, "patches", n_images=100)
    seen = {*images_of(sample.train)[:, 0].tolist(), *images_of(sample.val)[:, 0].tolist()}
    assert seen == {*range(20)} - {3}


def test_a_sample_is_always_the_same_and_depends_on_the_seed(store):
    one, again, other = (draw_sample(store, 1, "patches", n_images=6, n_tokens=50, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.train.acts, again.train.acts) and torch.equal(one.val.labels, again.val.labels)
    assert not torch.equal(one.train.acts, other.train.acts)


def test_few_tokens_are_drawn_from_all_images(store):
    sample = draw_sample(store, 1, "patches", n_images=10, n_tokens=60)
    assert len(sample.train.acts) == len(sample.val.acts) == 30
    assert len(set(images_of(sample.train)[:, 0].tolist())) == 5


def test_only_the_images_given_are_drawn(store):
    sample = draw_sample(store, 1, "patches", np.array([2, 5, 11]))
    assert {*images_of(sample.train)[:, 0].tolist(), *images_of(sample.val)[:, 0].tolist()} == {2, 5, 11}


def test_ignored_labels_are_no_class(store):
    sample = draw_sample(store, 1, "patches", n_images=8, ignore=(0, 2))
    assert sample.classes.ids == (1, 3)
    for half in (sample.train, sample.val):
        assert {*half.labels.tolist()} == {0, 1} and len(half.acts) < 4 * 16


def test_what_cannot_be_sampled_is_refused(store, tiny):
    with pytest.raises(ValueError, match="has no patch labels: record an image set with masks"):
        draw_sample(ActivationStore(tiny), 1, "patches")
    with pytest.raises(ValueError, match=r"images=1, tokens=16384: .*at least 2"):
        draw_sample(store, 1, "patches", n_images=1)
    with pytest.raises(ValueError, match=r"1 of 1 images have labelled tokens \(tokens=patches\), not 2 or more"):
        draw_sample(store, 1, "patches", np.array([7]))
    with pytest.raises(ValueError, match=r"0 of 20 images have labelled tokens \(tokens=cls\)"):
        draw_sample(store, 1, "cls", np.arange(20))


def test_a_recording_is_opened_where_it_can_be_used(store, tiny, tmp_path):
    root = str(store.location.root)
    assert labelled_store(root, 1, "patches", WIDTH).manifest.fingerprint == store.manifest.fingerprint
    for arguments, message in {
        (str(tiny), 1, "patches", WIDTH): "has no patch labels",
        (root, 2, "patches", WIDTH): "layer=2 is not in",
        (root, 1, "special", 32): "has d_model=96, the activations that are trained on 32",
        (str(tmp_path), 1, "patches", WIDTH): "is not a recorded dataset",
    }.items():
        with pytest.raises(ValueError, match=f"probe.dataset={arguments[0]}.*{message}"):
            labelled_store(*arguments)
