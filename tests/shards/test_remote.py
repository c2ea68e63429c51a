"""Datasets behind http and pipe: addresses: the same batches, and errors that name the file."""

import functools
import gc
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from recordings import record
from serving import Handler, serve

from datamodules import ActivationDataModule
from datamodules.batches import Batches
from saev.shards import ActivationStore, TokenStream, open_stream, remote
from saev.shards.location import Location, scratch_folder

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="http is read through curl")


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
        with pytest.raises(ValueError, match=rf"{url}/layer-03/000001.tar ends at byte .*truncated or has changed"):
            batches(ActivationStore(url))
        shard.unlink()
        with pytest.raises(ValueError, match=rf"{url}/layer-03/000001.tar does not exist there .HTTP 404"):
            batches(ActivationStore(url))


@pytest.mark.parametrize("place", [-700, 3000])  # the last array, and one that is never used
def test_a_changed_shard_is_named(dataset, tmp_path, place):
    """Its sizes and its headers are those of the recording."""
    copy = Path(shutil.copytree(dataset, tmp_path / "data"))
    shard = copy / "layer-03/000001.tar"
    content = bytearray(shard.read_bytes())
    content[place - 1024 if place < 0 else place] ^= 1
    shard.write_bytes(content)
    store = ActivationStore(f"pipe:cat {copy}/{{file}}")
    with pytest.raises(ValueError, match=r"pipe:cat .*layer-03/000001\.tar differs from what was recorded \(sha256\)"):
        batches(store)


def test_a_changed_table_is_named(dataset, tmp_path):
    copy = Path(shutil.copytree(dataset, tmp_path / "data"))
    content = bytearray((copy / "token_labels.npy").read_bytes())
    content[-1] ^= 1
    (copy / "token_labels.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"token_labels\.npy differs from what was recorded \(sha256\)"):
        _ = ActivationStore(f"pipe:cat {copy}/{{file}}").token_labels


def script(tmp_path, text):
    """A command that may fail: `n` is the number of the call for this file."""
    (tmp_path / "read.sh").write_text(f"echo x >> $1.calls; n=$(wc -l < $1.calls)\n{text}\n")
    return f"pipe:sh {tmp_path}/read.sh {{file}}"


@pytest.fixture
def impatient(monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "STALL_S", 0.6)
    monkeypatch.setattr(remote, "FIRST_DELAY_S", 0.1)
    monkeypatch.chdir(tmp_path)
    for folder in ("layer-01", "layer-03"):
        (tmp_path / folder).mkdir()


@pytest.mark.slow
@pytest.mark.parametrize("failure", ["sleep 60", "kill -9 $$", "exit 255"], ids=["silent", "killed", "lost"])
def test_a_transfer_that_breaks_is_continued(dataset, tmp_path, impatient, caplog, failure):
    command = script(
        tmp_path,
        f"case $1 in *000001.tar) if [ $n -le 2 ]; then head -c ${{n}}500 {dataset}/$1; {failure}; fi;; esac; cat {dataset}/$1",
    )
    assert same(batches(ActivationStore(command)), batches(ActivationStore(dataset)))
    said = {
        "sleep 60": "has sent nothing for 1 s",
        "kill -9 $$": "ends with exit code 137",
        "exit 255": "ends with exit code 255",
    }[failure]
    assert f"000001.tar {said}" in caplog.text and "trying again in" in caplog.text


@pytest.mark.slow
def test_an_unresponsive_source_is_given_up_after_the_limit(dataset, tmp_path, impatient):
    command = script(tmp_path, f"case $1 in *000001.tar) sleep 60;; esac; cat {dataset}/$1")
    with pytest.raises(
        ValueError, match=r"000001\.tar has sent nothing for 1 s; given up after \d s \(datamodule\.retry_s"
    ):
        batches(ActivationStore(command), retry_s=2)


@needs_curl
def test_a_server_that_dies_is_named(dataset):
    with serve(dataset) as url:
        store = ActivationStore(url)
        stream = TokenStream(store, 3, 50, reader="streamed", retry_s=0.5)
    with pytest.raises(
        ValueError, match=rf"{url}/layer-03/00000\d.tar cannot be read \(.*connect.*\); given up after 0 s"
    ):
        next(stream.batches())


@needs_curl
@pytest.mark.parametrize("slow", [{"stall": "000002.tar"}, {"trickle": "000002.tar"}], ids=["silent", "1 KB/s"])
def test_a_wait_for_an_unresponsive_server_is_left_at_once(dataset, slow):
    """A signal while a batch does not arrive: what is called while waiting may raise, and closing takes no time."""
    Handler.released.clear()
    calls = []

    def interrupt():
        calls.append(time.monotonic())
        if len(calls) == 4:
            raise KeyboardInterrupt

    try:
        with serve(dataset, **slow) as url:
            stream = TokenStream(ActivationStore(url), 1, 20, window=20, shuffle=False, reader="streamed")
            loader = Batches(functools.partial(stream.batches, 0), 2, interrupt)
            with pytest.raises(KeyboardInterrupt):
                for _ in loader:
                    pass
            assert time.monotonic() - calls[-1] < 1.5
            Handler.released.set()
    finally:
        Handler.released.set()


@pytest.mark.parametrize("name", ["x.tar;touch PWNED;true", "$(touch PWNED).tar", "a b.tar", "`id`.tar", "x'.tar"])
@pytest.mark.parametrize("quotes", ["", "'", '"'])
def test_names_in_a_manifest_are_not_run_by_a_shell(dataset, tmp_path, monkeypatch, name, quotes):
    copy = Path(shutil.copytree(dataset, tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace("layer-03/000001.tar", f"layer-03/{name}"))
    with pytest.raises(ValueError, match=r"a command gets only names of letters, digits"):
        TokenStream(
            ActivationStore(f"pipe:cat {copy}/{quotes}{{file}}{quotes}"), 3, 50, reader="streamed"
        ).batches().__next__()
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret.tar", "layer-03/a\\nb.tar"])
def test_a_manifest_whose_names_lead_elsewhere_is_refused(dataset, tmp_path, name):
    copy = Path(shutil.copytree(dataset, tmp_path / "data"))
    text = (copy / "manifest.json").read_text()
    for old in ("layer-03/000001.tar", "token_labels.npy"):
        (copy / "manifest.json").write_text(text.replace(old, name))
        with pytest.raises(ValueError, match=r"manifest\.json names the file .*do not use files from this source"):
            ActivationStore(copy)


def test_a_table_whose_paths_lead_elsewhere_is_refused(dataset, tmp_path):
    copy = Path(shutil.copytree(dataset, tmp_path / "data"))
    table = pl.read_parquet(copy / "examples.parquet")
    table.with_columns(path=pl.lit("../../home/me/secret.png")).write_parquet(copy / "examples.parquet")
    with pytest.raises(ValueError, match=r"examples\.parquet of .* names the file '\.\./\.\./home"):
        _ = ActivationStore(copy).examples


@pytest.mark.slow
def test_temporary_folders_of_killed_programs_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    owner = Location("http://h/x")
    held = scratch_folder(owner)
    for name, age in (("saev-remote-old", 100), ("saev-remote-new", 0)):
        (tmp_path / name / "layer-01").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    os.utime(held, (time.time() - 100,) * 2)
    other = Location("http://h/x")
    mine = scratch_folder(other)
    assert {p.name for p in tmp_path.iterdir()} == {held.name, mine.name, "saev-remote-new"}
    del owner
    gc.collect()
    assert not held.exists() and mine.exists()


def test_an_address_without_a_dataset_is_an_error_with_the_remedy(tmp_path):
    with (
        serve(tmp_path / "none") as url,
        pytest.raises(ValueError, match=rf"dataset={url}: manifest.json cannot be fetched.*404.*Check the address"),
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
