"""Datasets behind http and pipe: addresses: the same batches, and errors that name the file."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from recordings import record
from serving import Handler, serve

from datamodules import ActivationDataModule
from saev.shards import ActivationStore, TokenStream, open_stream
from saev.shards.location import Location

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads http through curl")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("remote") / "data"
    return record(root, layers=(1, 3), skipped=(5,), examples_per_shard=10, labels=True, dtype="float16")


def batches(store, **kw):
    stream = TokenStream(store, 3, 50, window=200, reader="streamed", ignore_labels=(2,), **kw)
    return list(stream.batches(3, 3 + 2 * stream.n_batches))


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a
    )


@needs_curl
def test_http_gives_the_same_batches_as_the_directory(dataset):
    with serve(dataset) as url:
        store = ActivationStore(url)
        assert store.name == "data" and same(batches(store), batches(ActivationStore(dataset)))
        np.testing.assert_array_equal(store.moments(3).mean, ActivationStore(dataset).moments(3).mean)
        with pytest.raises(ValueError, match="is remote, its images cannot be read one by one: stream it"):
            store.read(3, 0)


def test_a_command_gives_the_same_batches_as_the_directory(dataset):
    store = ActivationStore(f"pipe:cat {dataset}/{{file}}")
    assert same(batches(store, readers=3), batches(ActivationStore(dataset)))


def test_open_stream_reads_local_and_remote_recordings_alike(dataset):
    streams = [
        open_stream(ActivationStore(root), 3, 50, ignore_labels=[2])
        for root in (dataset, f"pipe:cat {dataset}/{{file}}")
    ]
    local, remote = (list(stream.batches(0, stream.n_batches)) for stream in streams)
    assert same(local, remote) and [stream.reader for stream in streams] == ["mapped", "streamed"]
    examples = np.concatenate([batch["example"] for batch in local])
    assert examples.tolist() == sorted(examples.tolist())


@needs_curl
def test_the_datamodule_streams_what_is_remote(dataset):
    with serve(dataset) as url:
        data = ActivationDataModule(url, -1, 64)
        data.setup("fit")
        assert data.reader == "streamed" and data.layer == 3
        stream = iter(data.train_dataloader())
        seen = {int(e) for _ in range(data.stream(data.train_examples).n_batches) for e in next(stream)["example"]}
        stream.close()
        assert seen == set(data.train_examples.tolist())
        val = [int(e) for batch in data.val_dataloader() for e in batch["example"]]
        assert set(val) == set(data.val_examples.tolist()) and len(val) == 16 * len(data.val_examples)


@needs_curl
def test_a_shard_that_is_gone_or_cut_off_is_named(dataset, tmp_path):
    copy = Path(shutil.copytree(dataset, tmp_path / "data"))
    shard = copy / "layer-03/000001.tar"
    whole = shard.read_bytes()
    with serve(copy) as url:
        shard.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=rf"{url}/layer-03/000001.tar (cannot be read|ends after).*restore"):
            batches(ActivationStore(url))
        shard.unlink()
        with pytest.raises(ValueError, match=rf"{url}/layer-03/000001.tar cannot be read beyond image 0"):
            batches(ActivationStore(url))


@needs_curl
def test_closing_does_not_wait_for_a_silent_server(dataset):
    """Would hang until the server gives up, were the waiting read not ended."""
    Handler.released.clear()
    with serve(dataset, stall="000002.tar") as url:
        stream = TokenStream(ActivationStore(url), 1, 20, window=20, shuffle=False, reader="streamed")
        reading = stream.batches()
        while next(reading)["example"].max() < 18:  # the next window waits for shard 2
            pass
        closer = threading.Thread(target=reading.close)
        closer.start()
        closer.join(10)
        assert not closer.is_alive()
        Handler.released.set()


def test_an_address_without_a_dataset_is_an_error_with_the_remedy(tmp_path):
    with (
        serve(tmp_path / "none") as url,
        pytest.raises(ValueError, match=rf"dataset={url}: manifest.json cannot be fetched.*404.*check the address"),
    ):
        ActivationStore(url)


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("pipe:cat /data", r"dataset=pipe:cat /data: put \{file\} where the file's name belongs"),
        ("pipe:false {file}", r"manifest\.json cannot be fetched"),
        ("http://127.0.0.1:9/x", r"dataset=http://127\.0\.0\.1:9/x: manifest\.json cannot be fetched"),
    ],
)
def test_addresses_that_lead_nowhere(root, message):
    with pytest.raises(ValueError, match=message):
        ActivationStore(root)


def test_names_and_urls():
    assert Location("http://h/data/birds-1/").url("a/b.tar") == "http://h/data/birds-1/a/b.tar"
    assert [
        Location(root).name for root in ("http://h/d/birds-1/", "pipe:ssh h cat /d/birds-1/{file}", "/d/birds-1")
    ] == ["birds-1"] * 3
    assert not Location(Path("/d/birds-1")).remote and Location("s3://b/x").remote
