"""Batches in parts: what a step sees depends on the number of parts, not on that of the processes that read them."""

from types import SimpleNamespace

import pytest
import torch
from recordings import record

from datamodules import ActivationDataModule
from datamodules.parts import parts_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record(tmp_path_factory.mktemp("parts") / "data", labels=True)


def make(dataset, rank=0, world=1, **kw):
    """The datamodule as process `rank` of `world` has it."""
    data = ActivationDataModule(str(dataset), 1, **{"batch_size": 50, "val_fraction": 0.2, "pool": 400, **kw})
    data.setup("fit")
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=world,
        global_rank=rank,
        distributed_sampler_kwargs={"rank": rank, "num_replicas": world},
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        limit_val_batches=1.0,
    )
    return data


def batches(data, n):
    stream = iter(data.train_dataloader())
    taken = [next(stream) for _ in range(n)]
    stream.close()
    return taken


@pytest.mark.parametrize("reader", ["mapped", "streamed"])
@pytest.mark.parametrize(("parts", "worlds"), [(1, [1]), (2, [1, 2]), (3, [1, 3]), (4, [1, 2, 4])])
def test_a_batch_is_the_same_for_any_number_of_processes(dataset, reader, parts, worlds):
    expected = batches(make(dataset, parts=parts, reader=reader), 25)  # more than two epochs
    for world in worlds[1:]:
        divided = [batches(make(dataset, rank, world, parts=parts, reader=reader), 25) for rank in range(world)]
        for whole, *own in zip(expected, *divided, strict=True):
            for key in ("acts", "example", "token", "label"):
                assert torch.equal(whole[key], torch.cat([part[key] for part in own])), key
            assert {part["tokens"] for part in own} == {len(whole["acts"])}
            assert {part["step"] for part in own} == {whole["step"]}


@pytest.mark.parametrize("reader", ["mapped", "streamed"])
@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_every_token_comes_once_an_epoch_and_is_counted(dataset, reader, parts):
    data = make(dataset, parts=parts, reader=reader)
    n = data.n_steps()
    taken = batches(data, n)
    pairs = {(int(e), int(t)) for b in taken for e, t in zip(b["example"], b["token"], strict=True)}
    assert len(pairs) == sum(b["tokens"] for b in taken) == 32 * 16
    assert all(b["tokens"] == len(b["acts"]) <= 50 for b in taken)
    plan = data.stream(data.train_examples).plan
    assert [plan.tokens(step) for step in range(n, 2 * n)] == [b["tokens"] for b in taken]


def test_no_parts_are_as_many_as_processes(dataset):
    for world in (1, 2):
        free, fixed = (batches(make(dataset, 0, world, parts=parts), 5) for parts in (None, world))
        assert all(torch.equal(a["acts"], b["acts"]) for a, b in zip(free, fixed, strict=True))
        assert make(dataset, 0, world).state_dict()["parts"] == world


def test_the_start_of_the_bank_is_the_same_for_any_division(dataset):
    expected = make(dataset).sample(100)
    assert torch.equal(make(dataset, parts=4).sample(100), expected)
    assert torch.equal(make(dataset, 1, 2).sample(100), expected)


def test_parts_share_the_pool(dataset):
    for parts in (1, 2, 4):
        plan = make(dataset, parts=parts).stream(make(dataset).train_examples).plan
        assert parts * (2 * plan.window + 2 * plan.batch_size) <= 400


def test_batches_that_are_kept_are_their_own(dataset):
    taken = batches(make(dataset, parts=2), 15)
    assert len({b["acts"].data_ptr() for b in taken}) == 15


def test_held_out_tokens_are_divided_by_process(dataset):
    own = [list(make(dataset, rank, 2, parts=4).val_dataloader()) for rank in range(2)]
    assert len(own[0]) == len(own[1])
    pairs = [(int(e), int(t)) for b in own[0] + own[1] for e, t in zip(b["example"], b["token"], strict=True)]
    assert len(pairs) == len(set(pairs)) == 8 * 16


def test_parts_that_cannot_be_dealt_out_or_filled_are_refused(dataset):
    with pytest.raises(ValueError, match=r"datamodule\.parts=3: must be a multiple of 2"):
        make(dataset, parts=3).n_steps(2)
    with pytest.raises(ValueError, match=r"batch_size=2: must be at least 4"):
        make(dataset, batch_size=2, parts=4)
    with pytest.raises(ValueError, match=r"batch_size=2: must be at least 3"):
        parts_of(None, 3, 2)
    with pytest.raises(ValueError, match=r"datamodule\.parts=0: must be at least 1"):
        make(dataset, parts=0)


def test_a_run_resumes_with_its_number_of_parts(dataset):
    state = make(dataset, 0, 2).state_dict()
    make(dataset, parts=2).load_state_dict(state)
    make(dataset, 1, 2).load_state_dict(state)
    with pytest.raises(ValueError, match=r"parts=2, this run has parts=1: resume with datamodule\.parts=2"):
        make(dataset).load_state_dict(state)
