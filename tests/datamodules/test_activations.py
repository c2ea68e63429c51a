"""The datamodule: splits by image, tells what is wrong, and stands on what the recording says."""

import polars as pl
import pytest
import torch
from recordings import record

from datamodules import ActivationDataModule
from saev.checkpoint import save_dictionary
from saev.nn import SparseAutoencoder, TopK
from saev.recipes.trainer import provenance
from saev.saved import find_dictionaries, select_tokens
from saev.shards import ActivationStore


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record(tmp_path_factory.mktemp("dm") / "data", layers=(1, 3), skipped=(5,), labels=True)


def make(dataset, **kw):
    data = ActivationDataModule(str(dataset), **{"layer": 1, "batch_size": 64, **kw})
    data.setup("fit")
    return data


@pytest.mark.parametrize("reader", ["mapped", "streamed"])
def test_split_is_by_image_and_the_same_for_every_seed(dataset, reader):
    data = make(dataset, val_fraction=0.25, reader=reader)
    train, val = data.train_examples, data.val_examples
    assert not set(train) & set(val) and len(train) + len(val) == 39 and len(val) == 10
    assert make(dataset, val_fraction=0.25, reader=reader, seed=9).val_examples.tolist() == val.tolist()


def test_held_out_tokens_come_once_and_whole_images(dataset):
    data = make(dataset, val_fraction=0.25, val_tokens=70)
    batches = list(data.val_dataloader())
    assert sum(len(b["acts"]) for b in batches) == 4 * 16
    assert {int(e) for b in batches for e in b["example"]} == set(data.val_examples.tolist())


@pytest.mark.parametrize("reader", ["mapped", "streamed"])
def test_images_of_a_group_are_all_in_training_or_all_held_out(tmp_path, reader):
    root = record(tmp_path / "data", skipped=(5,))
    table = pl.read_parquet(root / "examples.parquet")
    table.with_columns(video=pl.Series([f"v{i % 8}" for i in range(40)])).write_parquet(root / "examples.parquet")
    data = make(root, val_fraction=0.3, val_tokens=130, group="video", reader=reader)
    train, val = ({i % 8 for i in images.tolist()} for images in (data.train_examples, data.val_examples))
    assert not train & val and len(val) <= 3 and len(data.train_examples) in (24, 25) and len(data.val_examples) == 8
    assert data.train_examples.tolist() != sorted(data.train_examples), "subset_tokens takes random images"
    save_dictionary(SparseAutoencoder(16, 32, TopK(4)), tmp_path / "sae", provenance=provenance(data, "none"))
    (sae,) = find_dictionaries(tmp_path / "sae")
    assert select_tokens(sae, root).images.tolist() == data.val_examples.tolist()
    with pytest.raises(ValueError, match=r"had group=video, this run has group=None"):
        make(root, val_fraction=0.3, val_tokens=130, reader=reader).load_state_dict(data.state_dict())
    with pytest.raises(ValueError, match=r"datamodule\.group=vidoe: data has no such column; did you mean video"):
        make(root, group="vidoe")


def test_training_batches_leave_held_out_images_alone(dataset):
    data = make(dataset)
    stream = iter(data.train_dataloader())
    seen = {int(e) for _ in range(data.stream(data.train_examples).n_batches) for e in next(stream)["example"]}
    stream.close()
    assert seen == set(data.train_examples.tolist())


def test_state_is_what_was_consumed(dataset):
    data = make(dataset)
    data.consumed = 7
    state = data.state_dict()
    fresh = make(dataset)
    fresh.load_state_dict(state)
    stream = iter(fresh.train_dataloader())
    assert next(stream)["step"] == 7
    stream.close()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch_size": 32},
        {"layer": 3},
        {"tokens": "all"},
        {"pool": 4096},
        {"stripe": 4},
        {"val_fraction": 0.2},
        {"ignore_labels": [1]},
        {"subset_tokens": 100},
        {"reader": "streamed"},
    ],
)
def test_a_state_of_another_stream_is_refused(dataset, change):
    state = make(dataset).state_dict()
    with pytest.raises(ValueError, match=f"{next(iter(change))}="):
        make(dataset, **change).load_state_dict(state)


def test_layers_count_from_the_end(dataset):
    assert make(dataset, layer=-1).layer == 3


def test_sample_is_training_data_and_deterministic(dataset):
    data = make(dataset)
    one, two = data.sample(100), data.sample(100)
    assert one.dtype == torch.float32 and 100 <= len(one) < 200
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_steps_make_up_the_tokens(dataset):
    data = make(dataset, n_tokens=5000)
    per_step = data.stream(data.train_examples).n_tokens / data.stream(data.train_examples).n_batches
    assert data.n_steps() == round(5000 / per_step)
    assert make(dataset, n_tokens=None).n_steps() == data.stream(data.train_examples).n_batches


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 10**6, "pool": 10**7}, r"batch_size=1000000 is larger than the 560 training tokens"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"layer": 2}, r"layer=2 is not in .*recorded: \[1, 3\]"),
        ({"tokens": "head"}, "tokens=head: choose patches, cls, special or all"),
        ({"val_fraction": 1.5}, r"val_fraction=1\.5"),
        ({"pool": 200}, r"datamodule\.pool=200: must be at least 256"),
        ({"reader": "fast"}, r"datamodule\.reader=fast: choose auto, mapped, streamed or live"),
        ({"readers": 0}, r"datamodule\.readers=0: must be at least 1"),
        ({"val_tokens": 0}, r"datamodule\.val_tokens=0: must be at least 1"),
        ({"ignore_labels": [0, 1, 2, 3]}, r"training tokens \(tokens=patches, ignore_labels=\(0, 1, 2, 3\).*0 tokens"),
        (
            {"batch_size": 600, "subset_tokens": 600},
            r"than the 560 training tokens .*\(tokens=patches, .*subset_tokens=600\)",
        ),
        ({"subset_tokens": 10}, r"subset_tokens=10: must be at least batch_size=64"),
    ],
)
def test_wrong_settings_are_named(dataset, change, message):
    with pytest.raises(ValueError, match=message):
        make(dataset, **change)


def test_nothing_to_read():
    with pytest.raises(ValueError, match="dataset=null: give a recorded directory"):
        ActivationDataModule(None, 1, 64)


def test_missing_dataset_is_named(tmp_path):
    with pytest.raises(ValueError, match="not a recorded dataset"):
        make(tmp_path / "none")


def test_too_few_images_to_hold_some_out(tmp_path):
    with pytest.raises(ValueError, match="too few to hold one out"):
        make(record(tmp_path / "one", n_examples=1), batch_size=4)


def test_prepare_data_records_what_is_missing(tmp_path):
    class Recording:
        calls = 0

        def run(self):
            self.calls += 1
            return tmp_path / "d" if (tmp_path / "d").is_dir() else record(tmp_path / "d")

    data = ActivationDataModule(None, 1, 64, recording=Recording())
    data.prepare_data()
    data.setup("fit")
    assert data.store.root == ActivationStore(tmp_path / "d").root


def test_ignored_labels_and_subsets(dataset):
    data = make(dataset, ignore_labels=[0, 1], subset_tokens=128)
    batches = epoch(data)
    assert sum(len(b["acts"]) for b in batches) == 128
    assert {int(v) for b in batches for v in b["label"].long()} == {2, 3}
    assert {int(v) for b in data.val_dataloader() for v in b["label"].long()} == {2, 3}


def epoch(data):
    stream = iter(data.train_dataloader())
    batches = [next(stream) for _ in range(data.stream(data.train_examples).n_batches)]
    stream.close()
    return batches


@pytest.mark.parametrize("depth", [0, 1, 4])
@pytest.mark.parametrize("readers", [1, 3])
def test_order_does_not_depend_on_threads(dataset, depth, readers):
    one, other = epoch(make(dataset)), epoch(make(dataset, depth=depth, readers=readers))
    assert all(
        torch.equal(a["acts"], b["acts"]) and torch.equal(a["token"], b["token"])
        for a, b in zip(one, other, strict=True)
    )


def test_streams_are_made_once(dataset):
    data = make(dataset)
    assert data.stream(data.train_examples) is data.stream(data.train_examples)
    assert data.stream(data.train_examples, world=2) is not data.stream(data.train_examples)


def test_no_memory_is_shared_between_batches_that_are_kept(dataset):
    batches = epoch(make(dataset, depth=3))
    assert len({b["acts"].data_ptr() for b in batches}) == len(batches)


def test_held_out_tokens_are_looked_for_before_training(tmp_path):
    root = record(tmp_path / "d", n_examples=4, tokens=3, labels=True)  # an image has one label
    held_out = make(root, batch_size=4, val_fraction=0.2, pool=64).val_examples[0]
    with pytest.raises(
        ValueError, match=r"held-out tokens \(tokens=patches, ignore_labels=\(\d,\), val_fraction=0.2\)"
    ):
        make(root, batch_size=4, val_fraction=0.2, pool=64, ignore_labels=[int(held_out) % 4])


def test_val_tokens_counts_the_tokens_that_are_looked_at(dataset):
    data = make(dataset, val_fraction=0.25, val_tokens=8, tokens="cls", batch_size=8)
    assert sum(len(b["acts"]) for b in data.val_dataloader()) == 8


def test_a_subset_larger_than_the_data_is_reported_to_be_all(dataset, caplog):
    data = make(dataset, subset_tokens=10**6)
    assert data.stream(data.train_examples).n_tokens == 560
    assert "subset_tokens=1000000 exceeds the available tokens: all are used" in caplog.text
