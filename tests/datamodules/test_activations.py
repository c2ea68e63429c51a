"""The datamodule: splits by image, tells what is wrong, and stands on what the recording says."""

import pytest
import torch
from recordings import record

from datamodules import ActivationDataModule
from saev.shards import ActivationStore


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record(tmp_path_factory.mktemp("dm") / "data", layers=(1, 3), skipped=(5,))


def make(dataset, **kw):
    data = ActivationDataModule(str(dataset), **{"layer": 1, "batch_size": 64, **kw})
    data.setup("fit")
    return data


def test_split_is_by_image_and_the_same_for_every_seed(dataset):
    data = make(dataset, val_share=0.25)
    train, val = data.split()
    assert not set(train) & set(val) and len(train) + len(val) == 39 and len(val) == 10
    other = make(dataset, val_share=0.25, seed=9).split()
    assert other[1].tolist() == val.tolist()


def test_held_out_tokens_come_once_and_whole_images(dataset):
    data = make(dataset, val_share=0.25, val_tokens=70)
    batches = list(data.val_dataloader())
    assert sum(len(b["acts"]) for b in batches) == 4 * 16
    assert {int(e) for b in batches for e in b["example"]} == set(data.val_examples.tolist())


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


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 32}, {"layer": 3}, {"tokens": "all"}, {"window": 64}])
def test_a_state_of_another_stream_is_refused(dataset, change):
    state = make(dataset).state_dict()
    with pytest.raises(ValueError, match=f"{next(iter(change))}="):
        make(dataset, **change).load_state_dict(state)


def test_layers_count_from_the_end(dataset):
    assert make(dataset, layer=-1).layer == 3


def test_sample_is_training_data_and_deterministic(dataset):
    data = make(dataset)
    one, two = data.sample(100), data.sample(100)
    assert one.dtype == torch.float32 and len(one) <= 100
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_steps_make_up_the_tokens(dataset):
    data = make(dataset, n_tokens=5000)
    per_step = data.stream(data.train_examples).n_tokens / data.stream(data.train_examples).n_batches
    assert data.n_steps() == round(5000 / per_step)
    assert make(dataset, n_tokens=None).n_steps() == data.stream(data.train_examples).n_batches


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 10**6}, r"batch_size=1000000 .* is larger than the 560 training tokens"),
        ({"batch_size": 0}, "batch_size=0: give a positive number"),
        ({"layer": 2}, r"layer=2 is not in .*recorded: \[1, 3\]"),
        ({"tokens": "head"}, "tokens=head: choose one of"),
        ({"val_share": 1.5}, r"val_share=1\.5"),
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
    with pytest.raises(ValueError, match="too few to hold some out"):
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
