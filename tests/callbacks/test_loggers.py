"""Two members, twenty steps, every logger: what each backend's own files hold afterwards, per member."""

import csv
import json
import math

import pytest
import yaml
from conftest import TINY

from saev.metrics.histograms import FREQUENCY_EDGES

pytestmark = pytest.mark.slow
MEMBERS = ("k=4", "k=8")
# what a reader of a run expects to find, wherever they look
TRAIN = {"loss", "reconstruction", "sparsity", "aux", "z_mse", "l0", "gradient_norm", "lr", "sparsity_factor"}
TRAIN |= {"coherence", "mean_max_cosine", "image_entropy", "image_mates", "tokens_per_s", "mb_per_s", "member_ms"}
VAL = {
    "nmse",
    "explained_variance",
    "mse",
    "l0",
    "l1",
    "dead",
    "dense_above_0.1",
    "coherence",
    "tokens_per_s",
}


@pytest.fixture(scope="module")
def kept():
    """The run, made once for all tests of this file."""
    return {}


@pytest.fixture
def run(kept, cli, tiny, tmp_path, monkeypatch):
    if "run" not in kept:
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_SILENT", "true")
        monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
        given = [item for item in TINY if not item.startswith(("n_tokens", "log_every", "val_every"))]
        shown = cli(
            "train", "experiment=none", f"dataset={tiny}", "layer=1", *given, "n_tokens=1280", "log_every=5",
            "val_every=10", "callbacks.coherence.every_n_steps=10", "logger=many", "sae=topk", "-m", "k=4,8",
        )  # fmt: skip
        assert shown.code == 0, shown.text
        (kept["run"],) = (path.parent for path in (tmp_path / "outputs").glob("train/**/saes"))
    return kept["run"]


def lines(run, member, split):
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in every if line["member"] == member and line["split"] == split]


@pytest.mark.parametrize("member", MEMBERS)
def test_metrics_jsonl_holds_every_number(run, member):
    train, val = lines(run, member, "train"), lines(run, member, "val")
    assert [line["step"] for line in train] == [5, 10, 15, 20] and [line["step"] for line in val] == [10, 20]
    assert {*train[-1]} >= TRAIN and {*val[-1]} >= VAL
    assert train[-1]["tokens"] == 1280 and train[-1]["l0"] == pytest.approx(float(member[2:]), rel=0.2)
    counts = val[-1]["frequency_histogram"]
    assert len(counts) == len(FREQUENCY_EDGES) - 1
    assert sum(counts) == round(64 * (1 - val[-1]["dead"]))


@pytest.mark.parametrize("member", MEMBERS)
def test_tensorboard_holds_the_same(run, member):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(run / "tensorboard" / member)).Reload()
    for split, names in (("train", TRAIN), ("val", VAL)):
        of = lines(run, member, split)
        for name in names:
            found = [(event.step, event.value) for event in events.Scalars(f"{split}/{name}")]
            assert found == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in of if name in line]
    histogram = events.Histograms("val/frequency_histogram")[-1].histogram_value
    assert sum(histogram.bucket) == sum(lines(run, member, "val")[-1]["frequency_histogram"])
    assert -7 <= histogram.min < histogram.max <= 0
    final = lines(run, member, "val")[-1]
    assert [event.value for event in events.Scalars("final/nmse")] == [pytest.approx(final["nmse"], rel=1e-6)]
    settings = HParamsPluginData.FromString(events.summary_metadata["_hparams_/session_start_info"].plugin_data.content)
    assert settings.session_start_info.hparams["k"].number_value == float(member[2:])


@pytest.mark.parametrize("member", MEMBERS)
def test_csv_holds_the_same(run, member):
    with open(run / "csv" / member / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    for split, names in (("train", TRAIN), ("val", VAL)):
        last = lines(run, member, split)[-1]
        for name in names & {*last}:
            found = [row[f"{split}/{name}"] for row in rows if row.get(f"{split}/{name}")]
            assert float(found[-1]) == pytest.approx(last[name], rel=1e-6), name


@pytest.mark.parametrize("member", MEMBERS)
def test_wandb_has_an_offline_run_of_each_member_with_the_same(run, member):
    found = [wandb_run(path) for path in sorted((run / "wandb").glob("offline-run-*/run-*.wandb"))]
    assert sorted(of.display_name for of, _ in found) == sorted(MEMBERS)
    assert {of.run_group for of, _ in found} == {"/".join(run.parent.parts[-2:])}  # the sweep
    assert len({of.run_id for of, _ in found}) == len(MEMBERS)
    (history,) = [rows for of, rows in found if of.display_name == member]
    for split, names in (("train", TRAIN), ("val", VAL)):
        of = lines(run, member, split)
        for name in names:
            told = [(row["trainer/global_step"], row[f"{split}/{name}"]) for row in history if f"{split}/{name}" in row]
            expected = [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in of if name in line]
            assert told == expected, name
    (histogram, *_) = [row for row in reversed(history) if "val/frequency_histogram/_type" in row]
    assert histogram["val/frequency_histogram/_type"] == "histogram" and histogram["trainer/global_step"] == 20
    assert histogram["val/frequency_histogram/values"] == lines(run, member, "val")[-1]["frequency_histogram"]
    assert histogram["val/frequency_histogram/bins"] == list(FREQUENCY_EDGES)


def wandb_run(path):
    """(what it is, rows of the history) of an offline run's file: a LevelDB log of W&B's own messages.

    Blocks of 32 KiB hold pieces [crc 4 bytes, length 2, type 1, data]; a record is one whole piece (1) or first, middle
    and last ones (2, 3, 4). The file begins with 7 bytes of W&B's.
    """
    from wandb.proto import wandb_internal_pb2 as pb

    data, at, piece = path.read_bytes(), 7, b""
    about, rows = None, []
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # the rest of a block is padding
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        piece += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = pb.Record.FromString(piece)
            piece = b""
            if record.HasField("run"):
                about = record.run
            if record.HasField("history"):
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return about, rows


def test_no_number_is_written_that_is_none(run):
    """NaN is no JSON; a number that cannot be had is left out."""
    for line in (run / "metrics.jsonl").read_text().splitlines():
        assert all(math.isfinite(value) for value in json.loads(line).values() if isinstance(value, float))


def test_hyperparameters_are_each_members_own(run):
    for member in MEMBERS:
        assert yaml.safe_load((run / "csv" / member / "hparams.yaml").read_text())["k"] == int(member[2:])
