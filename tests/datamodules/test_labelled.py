"""The labelled stream: every token with a label once, with its own label; split by image, of one recording or of two."""

import collections

import numpy as np
import pytest
import torch
from recordings import acts_of, labels_of, record

from datamodules import LabelledDataModule
from saev.probing.labels import ImageLabels
from saev.shards import ActivationStore


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record(tmp_path_factory.mktemp("labelled") / "data", layers=(1, 3), skipped=(5,), labels=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return record(tmp_path_factory.mktemp("labelled") / "other", n_examples=12, layers=(3,), labels=True)


def make(dataset, **kw):
    data = LabelledDataModule(str(dataset), **{"layer": 1, "batch_size": 64, **kw})
    data.setup("fit")
    return data


def epoch(data):
    stream = iter(data.train_dataloader())
    batches = [next(stream) for _ in range(data.n_steps())]
    stream.close()
    return batches


def pairs(batches):
    """How often each (activations, label) comes."""
    acts, labels = (torch.cat([b[key] for b in batches]) for key in ("acts", "labels"))
    return collections.Counter((a.numpy().tobytes(), int(n)) for a, n in zip(acts, labels, strict=True))


def expected(examples, layer, ids, others=False):
    """As `pairs`, of the tokens of these classes; with `others`, the other labelled tokens too, as the class after the last."""
    found = collections.Counter()
    for example in examples:
        acts, labels = acts_of(int(example), layer, 17, 16), labels_of(int(example), 1, 16)
        for row, id in zip(acts[1:], labels[1:], strict=True):
            if int(id) in ids:
                found[(row.tobytes(), ids.index(int(id)))] += 1
            elif others and int(id) < 65535:
                found[(row.tobytes(), len(ids))] += 1
    return found


def test_every_labelled_token_comes_once_with_its_label(dataset):
    data = make(dataset, ignore_labels=[1])
    assert data.classes.ids == (0, 2, 3) and data.n_classes == 3
    batches = epoch(data)
    assert set(batches[0]) == {"acts", "labels", "step", "tokens"}
    assert pairs(batches) == expected(data.train_examples, 1, [0, 2, 3])
    assert pairs(data.val_dataloader()) == expected(data.val_examples, 1, [0, 2, 3])
    assert not set(data.train_examples) & set(data.val_examples)


def test_class_numbers_follow_the_ids_as_they_are_given(dataset):
    data = make(dataset, classes=[3, 0])
    assert pairs(epoch(data)) == expected(data.train_examples, 1, [3, 0])
    n, counts = data.class_counts()
    labels = torch.cat([b["labels"] for b in epoch(data)])
    assert n == len(labels) and counts.tolist() == torch.bincount(labels).tolist()


def test_two_recordings_are_train_and_validation(dataset, other):
    data = make(dataset, layer=3, validation=ActivationStore(other), classes=[1, 2])
    assert pairs(epoch(data)) == expected([e for e in range(40) if e != 5], 3, [1, 2])
    assert pairs(data.val_dataloader()) == expected(range(12), 3, [1, 2], others=True)


def test_images_may_be_chosen(dataset):
    data = make(dataset, images=(np.arange(6, 20), np.array([2, 30])))
    assert pairs(epoch(data)) == expected(range(6, 20), 1, [0, 1, 2, 3])
    assert pairs(data.val_dataloader()) == expected([2, 30], 1, [0, 1, 2, 3])


def test_a_table_of_images_labels_all_their_tokens(dataset):
    table = np.random.default_rng(0).random((40, 5)) < 0.5
    labels = ImageLabels(table, counted=np.arange(40) % 4 > 0)
    data = make(dataset, labels=(labels, labels))
    batches = epoch(data)
    assert batches[0]["labels"].dtype == torch.bool and data.n_classes == 5
    assert sum(len(b["acts"]) for b in batches) == 16 * len(data.train_examples)
    assert all(e % 4 for e in [*data.train_examples, *data.val_examples])
    for examples, seen in ((data.train_examples, batches), (data.val_examples, list(data.val_dataloader()))):
        wanted = collections.Counter(
            (row.tobytes(), tuple(table[e].tolist())) for e in examples for row in acts_of(int(e), 1, 17, 16)[1:]
        )
        found = collections.Counter(
            (row.numpy().tobytes(), tuple(own.tolist()))
            for batch in seen
            for row, own in zip(batch["acts"], batch["labels"], strict=True)
        )
        assert found == wanted
    n, counts = data.class_counts()
    assert n == 16 * len(data.train_examples) and counts.tolist() == (16 * table[data.train_examples].sum(0)).tolist()


def test_the_stream_resumes_where_it_was(dataset):
    data = make(dataset)
    data.consumed = 3
    fresh = make(dataset)
    fresh.load_state_dict(data.state_dict())
    stream = iter(fresh.train_dataloader())
    batch = next(stream)
    stream.close()
    assert batch["step"] == 3 and torch.equal(batch["acts"], epoch(make(dataset))[3]["acts"])


@pytest.mark.parametrize("change", [{"classes": [0, 1]}, {"images": (np.arange(6, 20), np.arange(3))}])
def test_a_state_of_another_stream_is_refused(dataset, change):
    with pytest.raises(ValueError, match=f"had .*{next(iter(change))}=|had ignore_labels="):
        make(dataset, **change).load_state_dict(make(dataset).state_dict())


def test_recordings_that_do_not_fit_are_refused(dataset, other, tmp_path):
    with pytest.raises(ValueError, match="layer=1 is not in"):
        make(dataset, validation=str(other))
    wide = record(tmp_path / "wide", d_model=8, labels=True, n_examples=3)
    with pytest.raises(ValueError, match=r"d_model=8, train has 16: use recordings of one backbone"):
        make(dataset, validation=str(wide))
    plain = record(tmp_path / "plain", n_examples=5)
    with pytest.raises(ValueError, match="has no patch labels"):
        make(plain)
