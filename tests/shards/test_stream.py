"""The contract of the stream: every token once, equal ranks, exact resume, a pure function of its arguments."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from recordings import labels_of, record

from saev.shards import ActivationStore, TokenStream, epoch_plan
from saev.shards.epoch_plan import EpochPlan
from saev.shards.foreign import index_foreign
from saev.shards.mapped import MappedRows, OpenFiles
from saev.shards.selection import Spans, positions
from saev.shards.streamed import ShardEntries


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ActivationStore(record(tmp_path_factory.mktemp("stream") / "data", skipped=(5,), labels=True))


@pytest.fixture(params=[("mapped", 1), ("mapped", 3), ("streamed", 1), ("streamed", 3)], ids=lambda p: f"{p[0]}-{p[1]}")
def how(request):
    """The reader, and with how many threads."""
    return {"reader": request.param[0], "readers": request.param[1]}


plans = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(1, 20), min_size=1, max_size=30),
        "first": st.integers(0, 3),
        "batch_size": st.integers(1, 70),
        "window": st.integers(1, 200),
        "stripe": st.integers(1, 9),
        "order": st.sampled_from(["stripes", "shards", "sequential"]),
        "per_shard": st.integers(1, 12),
        "world": st.integers(1, 4),
        "epoch": st.integers(0, 2),
    }
)
ONE = dict(lengths=[1, 2], first=0, batch_size=1, window=1, stripe=1, order="sequential", per_shard=9, world=2, epoch=0)


@pytest.fixture(params=[3, 4096], autouse=True, scope="module")
def section(request):
    """Small sections make the arithmetic cross their edges in small examples."""
    before, epoch_plan.SECTION = epoch_plan.SECTION, request.param
    yield
    epoch_plan.SECTION = before


@settings(max_examples=150, deadline=None)
@given(plans)
@example(ONE)
def test_every_token_once_in_equal_batches_on_equal_ranks(case):
    lengths = np.array(case["lengths"])
    if lengths.sum() < case["world"]:
        return
    images, start = np.arange(len(lengths)) * 2, np.full(len(lengths), case["first"])
    shard = np.arange(len(lengths)) // case["per_shard"]
    sizes_of = (case["batch_size"], case["window"])
    made = EpochPlan(
        Spans(images, start, start + lengths), *sizes_of, case["order"], case["stripe"], 7, case["world"], shard
    )
    seen, sizes, per_rank = [], [], []
    for rank in range(case["world"]):
        batches = 0
        for window in range(made.n_windows):
            spans, edges = made.window_plan(case["epoch"], window, rank)
            run, token = positions(spans)
            tokens = np.stack([spans.example[run], token], 1)
            assert len(tokens) == edges[-1] and len(run) == len(tokens)
            order = made.permutation(case["epoch"], window, rank, len(tokens))
            assert sorted(order) == list(range(len(tokens)))
            seen.append(tokens[order])
            sizes += np.diff(edges).tolist()
            batches += len(edges) - 1
        per_rank.append(batches)
    expected = [(e, t) for e, n in zip(images, lengths, strict=True) for t in range(case["first"], case["first"] + n)]
    assert sorted(map(tuple, np.concatenate(seen).tolist())) == expected
    assert set(per_rank) == {made.n_batches} and min(sizes) > 0 and max(sizes) - min(sizes) <= 1
    assert max(sizes) == made.largest_batch
    assert max(sizes) <= (case["batch_size"] if case["batch_size"] > 1 or case["world"] == 1 else 2)


def test_streamed_ranks_read_different_shards():
    """Each rank has a contiguous part of the shards' order, so that a shard is read by two ranks at most."""
    shard = np.repeat(np.arange(8), 10)
    spans = Spans(np.arange(80), np.zeros(80, int), np.full(80, 4))
    made = EpochPlan(spans, 16, 32, "shards", seed=3, world=4, shard=shard)
    per_rank = [
        {int(s) for w in range(made.n_windows) for s in shard[made.window_plan(0, w, rank).spans.example]}
        for rank in range(4)
    ]
    assert sum(map(len, per_rank)) <= 8 + 3
    orders = [
        [int(shard[e]) for w in range(made.n_windows) for e in made.window_plan(0, w, r).spans.example]
        for r in range(4)
    ]
    assert all(sum(a != b for a, b in itertools.pairwise(o)) == len(set(o)) - 1 for o in orders), "each shard once"


def flat(batches):
    return [(b["step"], b["acts"].copy(), b["example"].copy(), b["token"].copy()) for b in batches]


def equal(one, other):
    return len(one) == len(other) and all(
        a[0] == b[0] and all(np.array_equal(x, y) for x, y in zip(a[1:], b[1:], strict=True))
        for a, b in zip(one, other, strict=True)
    )


def test_rows_are_the_tokens_they_say_they_are(store, how):
    for tokens, role_start in (("patches", 1), ("cls", 0), ("all", 0)):
        stream = TokenStream(store, 1, 50, tokens=tokens, window=120, stripe=4, **how)
        seen = []
        for batch in stream.batches(0, stream.n_batches):
            for acts, image, token, label in zip(
                *(batch[k] for k in ("acts", "example", "token", "label")), strict=True
            ):
                assert token >= role_start and label == labels_of(int(image), 1, 16)[token]
                np.testing.assert_array_equal(acts, store.read(1, int(image))[token])
                seen.append((int(image), int(token)))
        assert len(set(seen)) == len(seen) == stream.n_tokens == 39 * {"patches": 16, "cls": 1, "all": 17}[tokens]


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 60), st.integers(1, 100), st.integers(1, 300), st.sampled_from([(0, 1), (1, 2), (2, 3)]))
def test_resumed_equals_uninterrupted_whatever_the_readers(store, how, consumed, batch_size, window, ranks):
    rank, world = ranks
    make = lambda readers: TokenStream(  # noqa: E731
        store, 1, batch_size, window=window, stripe=5, rank=rank, world=world, **{**how, "readers": readers}
    )
    through = flat(make(how["readers"]).batches(0, consumed + 15))
    assert equal(through[consumed:], flat(make(2).batches(consumed, consumed + 15)))


def test_order_is_a_function_of_seed_and_epoch(store, how):
    def order(seed, start=0):
        stream = TokenStream(store, 1, 64, seed=seed, **how)
        first = start * stream.n_batches
        return [b["example"].tolist() for b in stream.batches(first, first + stream.n_batches)]

    assert order(0) == order(0) and order(0) != order(1) and order(0, 0) != order(0, 1)


def test_unshuffled_order_is_that_of_the_images(store, how):
    stream = TokenStream(store, 1, 64, shuffle=False, **how)
    examples = np.concatenate([b["example"] for b in stream.batches(0, stream.n_batches)])
    assert examples.tolist() == sorted(examples.tolist())


def test_subset_of_images(store, how):
    chosen = np.array([30, 2, 5, 7])  # in any order; 5 could not be read
    stream = TokenStream(store, 1, 10, chosen, **how)
    seen = {int(e) for b in stream.batches(0, stream.n_batches) for e in b["example"]}
    assert seen == {2, 7, 30}


def test_ignored_labels_never_come(store, how):
    stream = TokenStream(store, 1, 20, tokens="all", window=90, ignore_labels=(0, 3, 65535), **how)
    labels = np.concatenate([b["label"] for b in stream.batches(0, stream.n_batches)])
    expected = np.concatenate([labels_of(e, 1, 16) for e in range(40) if e != 5])
    assert set(labels.tolist()) == {1, 2} and len(labels) == np.isin(expected, (1, 2)).sum() == stream.n_tokens


def test_subset_by_number_of_tokens(store, how):
    stream = TokenStream(store, 1, 20, limit=100, window=60, **how)
    tokens = [
        (int(e), int(t))
        for b in stream.batches(0, stream.n_batches)
        for e, t in zip(b["example"], b["token"], strict=True)
    ]
    assert len(tokens) == len(set(tokens)) == 100


def test_the_stream_continues_over_epochs_and_stops_when_closed(store, how):
    stream = TokenStream(store, 1, 100, **how)
    batches = stream.batches()
    steps = [batch["step"] for batch in itertools.islice(batches, 3 * stream.n_batches)]
    batches.close()
    assert steps == list(range(3 * stream.n_batches))


def test_batches_that_are_kept_stay_as_they_are_and_dropped_ones_are_recycled(store):
    stream = TokenStream(store, 1, 20, window=60)
    kept = [b["acts"] for b in stream.batches(0, 12)]
    assert all(np.array_equal(a, b[1]) for a, b in zip(kept, flat(stream.batches(0, 12)), strict=True))
    addresses = [b["acts"].__array_interface__["data"][0] for b in stream.batches(0, 30)]
    assert len(set(addresses)) <= 2


def test_int8_storage_is_decoded(tmp_path, how):
    kw = {"n_examples": 20, "examples_per_shard": 7}
    exact = ActivationStore(record(tmp_path / "f4", **kw))
    store = ActivationStore(record(tmp_path / "i1", **kw, dtype="int8"))
    stream = TokenStream(store, 1, 30, window=60, **how)
    for batch in stream.batches(0, stream.n_batches):
        assert batch["acts"].dtype == np.float32
        true = np.stack([exact.read(1, int(e))[t] for e, t in zip(batch["example"], batch["token"], strict=True)])
        assert np.abs(batch["acts"] - true).max() < 0.02 * np.abs(true).max()


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


def test_labels_to_ignore_need_labels(tmp_path):
    store = ActivationStore(record(tmp_path / "none", n_examples=4))
    with pytest.raises(
        ValueError, match=r"ignore_labels=\[0\]: .* has no patch labels; record an image set with masks"
    ):
        TokenStream(store, 1, 4, ignore_labels=(0,))


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize("where", [300, 2000, -1500])
def test_a_shard_cut_off_while_in_use_is_named(tmp_path, how, where):
    store = ActivationStore(record(tmp_path / "data", examples_per_shard=10))
    stream = TokenStream(store, 1, 64, window=128, **how)
    shard = store.shard_paths(1)[2]
    cut(shard, where)
    with pytest.raises(ValueError, match=r"000002\.tar.*(cut off|truncated or has changed).*restore"):
        list(stream.batches(0, stream.n_batches))


def test_a_foreign_shard_is_named_when_streamed(tmp_path):
    store = ActivationStore(record(tmp_path / "data", examples_per_shard=10))
    other = record(tmp_path / "other", examples_per_shard=10, tokens=12)
    stream = TokenStream(store, 1, 64, reader="streamed")
    store.shard_paths(1)[1].write_bytes((other / "layer-01/000001.tar").read_bytes())
    with pytest.raises(
        ValueError, match=r"000001\.tar, 0000000.*npy holds float32 \(13, 16\), the manifest says .* \(17, 16\)"
    ):
        list(stream.batches(0, stream.n_batches))
    store.shard_paths(1)[1].write_bytes(store.shard_paths(1)[0].read_bytes())
    with pytest.raises(ValueError, match=r"000001\.tar holds 000000000\.acts\.npy in place of 000000010\.acts\.npy"):
        list(stream.batches(0, stream.n_batches))


def test_foreign_tars_are_not_streamed(tmp_path):
    """Guards against reading the wrong entry: entry names say nothing about image numbers."""
    tar = record(tmp_path / "data", examples_per_shard=10) / "layer-01" / "000000.tar"
    store = ActivationStore(index_foreign(tmp_path / "foreign", {1: [tar]}))
    assert TokenStream(store, 1, 8).n_tokens == 10 * 17
    with pytest.raises(ValueError, match=r"datamodule\.reader=streamed: .*foreign is an index of other programs' tars"):
        TokenStream(store, 1, 8, reader="streamed")


def test_each_shard_is_opened_once_an_epoch_when_streamed(store, monkeypatch):
    """Guards against reading a shard anew wherever a window ends within an image."""
    opened = []
    made = ShardEntries.__init__
    monkeypatch.setattr(
        ShardEntries, "__init__", lambda self, source, *rest: (opened.append(source.url), made(self, source, *rest))[1]
    )
    stream = TokenStream(store, 1, 10, window=50, tokens="all", reader="streamed")
    for _ in stream.batches(0, stream.n_batches):
        pass
    assert len(opened) <= len(store.shard_urls(1)) + 1  # one of the next epoch's may be read ahead


def test_another_thread_ends_the_stream_while_a_window_is_read(store, monkeypatch):
    """Guards against a stop that waits for the whole window, which is a gigabyte from a slow disk."""
    reading, closing = threading.Event(), threading.Event()
    read = MappedRows._fill

    def slow(self, files, spans, rows):
        reading.set()
        assert closing.wait(20)
        return read(self, files, spans, rows)

    monkeypatch.setattr(MappedRows, "_fill", slow)
    batches = TokenStream(store, 1, 10).batches(closing=closing)
    ended = threading.Thread(target=lambda: list(batches))
    ended.start()
    assert reading.wait(20)
    closing.set()
    ended.join(20)
    assert not ended.is_alive()
