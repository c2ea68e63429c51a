"""A stream of computed activations has the tokens of the stored ones, each once per epoch, and resumes at any batch."""

import itertools

import numpy as np
import pytest
from recordings import acts_of, record

from saev.shards import ActivationStore, TokenStream, open_stream
from saev.shards.computed import ComputedRows, ComputedStore
from saev.shards.moments import merge_roles


class Computed(ComputedStore):
    """What `record` stores, computed; `asked` has the images of each call."""

    def __init__(self, stored, seed=0):
        super().__init__(stored.root, stored.manifest, 17, seed)
        self.asked = []

    def compute(self, layer, images):
        self.asked.append(images.tolist())
        for image in images.tolist():
            yield acts_of(image, layer, 17, 16)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return ActivationStore(record(tmp_path_factory.mktemp("computed") / "data"))


def stream(store, **more):
    return TokenStream(store, 1, **{"batch_size": 50, "window": 100, "reader": "live", "seed": 3} | more)


@pytest.mark.parametrize("tokens", ["patches", "cls", "all"])
@pytest.mark.parametrize("world", [1, 2])
def test_an_epoch_has_every_token_once_as_stored(stored, tokens, world):
    store, seen = Computed(stored), {}
    for rank in range(world):
        part = stream(store, tokens=tokens, batch_size=20, rank=rank, world=world)
        for batch in part.batches(0, part.n_batches):
            for acts, example, token in zip(batch["acts"], batch["example"], batch["token"], strict=True):
                assert (int(example), int(token)) not in seen
                seen[int(example), int(token)] = acts
    expected = next(open_stream(stored, 1, 10_000, tokens=tokens).batches(0, 1))
    assert len(seen) == len(expected["acts"])
    for acts, example, token in zip(expected["acts"], expected["example"], expected["token"], strict=True):
        assert np.array_equal(seen[int(example), int(token)], acts)


@pytest.mark.parametrize("start", [1, 2, 5, 13, 14, 30])
def test_a_stream_from_any_batch_is_the_rest_of_the_whole_one(stored, start):
    """13 batches an epoch, 2 a window: starts within windows, at an epoch's end and in a later one."""
    whole = itertools.islice(stream(Computed(stored)).batches(), start, start + 3)
    rest = stream(Computed(stored)).batches(start)
    for one, other in zip(whole, rest, strict=False):
        assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_a_window_holds_whole_images_of_a_new_permutation_each_epoch(stored):
    store = Computed(stored)
    one = stream(store, batch_size=32, window=160)  # 160 tokens: 10 images
    list(one.batches(0, one.n_batches))
    assert [len(asked) for asked in store.asked] == [10] * 4 and sorted(itertools.chain(*store.asked)) == list(
        range(40)
    )
    first, store.asked = store.asked, []
    list(one.batches(one.n_batches, 2 * one.n_batches))
    assert sorted(itertools.chain(*store.asked)) == list(range(40)) and store.asked != first


def test_moments_are_those_of_a_seeded_sample(stored, monkeypatch):
    for role, all_images in stored.role_moments(1).items():
        np.testing.assert_allclose(Computed(stored).role_moments(1)[role].mean, all_images.mean, rtol=1e-6)
    monkeypatch.setattr("saev.shards.computed.SAMPLE", 7)
    one, other = Computed(stored, 1), Computed(stored, 2)
    for store in (one, other):
        store.moments(1, "patches")
        acts = np.concatenate([acts_of(i, 1, 17, 16)[1:] for i in store.asked[0]])
        np.testing.assert_allclose(store.moments(1, "patches").variance, acts.astype(float).var(0), rtol=1e-6)
        assert len(store.asked) == 1, "computed once"
    assert one.asked != other.asked and merge_roles(one.role_moments(1), other.role_moments(1))["cls"].count == 14


def test_a_recording_is_not_computed(stored):
    with pytest.raises(ValueError, match=r"is recorded; use datamodule\.reader=auto"):
        ComputedRows(stored, 1, lambda: False)
