"""The contract of the stream: every token once, equal ranks, exact resume, a pure function of its arguments."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recordings import record

from saev.shards import ActivationStore, TokenStream
from saev.shards.plan import EpochPlan
from saev.shards.stream import OpenFiles


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ActivationStore(record(tmp_path_factory.mktemp("stream") / "data", skipped=(5,)))


plans = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(1, 20), min_size=1, max_size=30),
        "first": st.integers(0, 3),
        "batch_size": st.integers(1, 70),
        "window": st.integers(1, 200),
        "stripe": st.integers(1, 9),
        "shuffle": st.booleans(),
        "world": st.integers(1, 4),
        "epoch": st.integers(0, 2),
    }
)


@settings(max_examples=150, deadline=None)
@given(plans)
@example(dict(lengths=[1, 2], first=0, batch_size=1, window=1, stripe=1, shuffle=False, world=2, epoch=0))
def test_every_token_once_in_equal_batches_on_equal_ranks(case):
    lengths = np.array(case["lengths"])
    if lengths.sum() < case["world"]:
        return
    images, start = np.arange(len(lengths)) * 2, np.full(len(lengths), case["first"])
    plan = EpochPlan(
        images,
        start,
        start + lengths,
        case["batch_size"],
        case["window"],
        case["stripe"],
        7,
        case["shuffle"],
        case["world"],
    )
    seen, sizes, per_rank = [], [], []
    for rank in range(case["world"]):
        batches = 0
        for window in range(plan.n_windows):
            span = plan.span(case["epoch"], window, rank)
            parts = [np.arange(a, b) for a, b in zip(span.start, span.stop, strict=True)]
            tokens = np.stack([np.repeat(span.example, span.stop - span.start), np.concatenate(parts)], 1)
            assert len(tokens) == span.edges[-1]
            order = plan.permutation(case["epoch"], window, rank, len(tokens))
            assert sorted(order) == list(range(len(tokens)))
            seen.append(tokens[order])
            sizes += np.diff(span.edges).tolist()
            batches += len(span.edges) - 1
        per_rank.append(batches)
    expected = [(e, t) for e, n in zip(images, lengths, strict=True) for t in range(case["first"], case["first"] + n)]
    assert sorted(map(tuple, np.concatenate(seen).tolist())) == expected
    assert set(per_rank) == {plan.n_batches} and min(sizes) > 0 and max(sizes) - min(sizes) <= 1
    assert max(sizes) <= (case["batch_size"] if case["batch_size"] > 1 or case["world"] == 1 else 2)


def flat(batches):
    return [(b["step"], b["acts"].copy(), b["example"].copy(), b["token"].copy()) for b in batches]


def equal(one, other):
    return len(one) == len(other) and all(
        a[0] == b[0] and all(np.array_equal(x, y) for x, y in zip(a[1:], b[1:], strict=True))
        for a, b in zip(one, other, strict=True)
    )


def test_rows_are_the_tokens_they_say_they_are(store):
    for tokens, role_start in (("patch", 1), ("cls", 0), ("all", 0)):
        stream = TokenStream(store, 1, 50, tokens=tokens, window=120, stripe=4)
        rows = 0
        for batch in stream.batches(0, stream.n_batches):
            for acts, image, token in zip(batch["acts"], batch["example"], batch["token"], strict=True):
                assert token >= role_start
                np.testing.assert_array_equal(acts, store.read(1, int(image))[token])
            rows += len(batch["acts"])
        assert rows == stream.n_tokens == 39 * {"patch": 16, "cls": 1, "all": 17}[tokens]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60), st.integers(1, 100), st.integers(1, 300), st.sampled_from([(0, 1), (1, 2), (2, 3)]))
def test_resumed_equals_uninterrupted(store, consumed, batch_size, window, ranks):
    rank, world = ranks
    make = lambda: TokenStream(store, 1, batch_size, window=window, stripe=5, rank=rank, world=world)  # noqa: E731
    through = flat(make().batches(0, consumed + 15))
    assert equal(through[consumed:], flat(make().batches(consumed, consumed + 15)))


def test_order_is_a_function_of_seed_and_epoch(store):
    def order(seed, start=0):
        stream = TokenStream(store, 1, 64, seed=seed)
        first = start * stream.n_batches
        return [b["example"].tolist() for b in stream.batches(first, first + stream.n_batches)]

    assert order(0) == order(0) and order(0) != order(1) and order(0, 0) != order(0, 1)


def test_unshuffled_order_is_that_of_the_images(store):
    stream = TokenStream(store, 1, 64, shuffle=False)
    examples = np.concatenate([b["example"] for b in stream.batches(0, stream.n_batches)])
    assert examples.tolist() == sorted(examples.tolist())


def test_subset_of_images(store):
    chosen = np.array([30, 2, 5, 7])  # 5 could not be read
    stream = TokenStream(store, 1, 10, chosen)
    seen = {int(e) for b in stream.batches(0, stream.n_batches) for e in b["example"]}
    assert seen == {2, 7, 30}


def test_the_stream_goes_on_over_epochs_and_stops_when_closed(store):
    stream = TokenStream(store, 1, 100)
    batches = stream.batches()
    steps = [batch["step"] for batch in itertools.islice(batches, 3 * stream.n_batches)]
    batches.close()
    assert steps == list(range(3 * stream.n_batches))


def test_stripes_mix_better_than_whole_images(store):
    def mates(stripe):
        stream = TokenStream(store, 1, 64, window=128, stripe=stripe)
        return np.mean([len(b["example"]) / len(set(b["example"])) for b in stream.batches(0, 20)])

    assert mates(2) < 0.75 * mates(16)


def test_few_files_are_open_at_a_time(tmp_path, monkeypatch):
    """Guards against a descriptor per shard: a large dataset has thousands, a process may open a thousand."""
    monkeypatch.setattr(OpenFiles, "MOST", 2)
    store = ActivationStore(record(tmp_path / "many", examples_per_shard=2))
    stream = TokenStream(store, 1, 50, window=100)
    opened, most = OpenFiles.get, []
    monkeypatch.setattr(OpenFiles, "get", lambda self, shard: (opened(self, shard), most.append(len(self.open)))[0])
    assert sum(len(batch["acts"]) for batch in stream.batches(0, stream.n_batches)) == stream.n_tokens
    assert max(most) == 2


def test_too_few_tokens_for_the_processes(store):
    with pytest.raises(ValueError, match="1 tokens for 2 processes"):
        TokenStream(store, 1, 4, np.array([3]), tokens="cls", world=2)
