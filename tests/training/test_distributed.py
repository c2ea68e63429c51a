"""Two processes train the bank that one process trains, however the work is divided and whoever goes on with it."""

import signal

import pytest
import torch
import torch.distributed as dist
from recordings import record
from training.banks import Snapshots, StopAt, assert_equal, build, specs, state
from training.process import diverging, members

from saev.training.bank.ddp import BankDDP, check_members

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")
CLOSE = 1e-5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record(tmp_path_factory.mktemp("distributed") / "data")


def alone(dataset, parts=None, **more):
    """(trainer, module, numbers seen) of a run in this process."""
    snapshots = Snapshots()
    trainer, module, data = build(dataset, members(), parts=parts, callbacks=[snapshots], **more)
    trainer.fit(module, data)
    return trainer, module, snapshots.seen


@pytest.fixture(scope="module")
def two(fork_pair, dataset, tmp_path_factory):
    """`two(run, rank)`: what process.py left; and the folder."""
    folder = tmp_path_factory.mktemp("two")
    for parts, name in ((None, "one-17"), (4, "one-17-parts-4")):
        trainer, module, data = build(dataset, members(), parts=parts, callbacks=[StopAt(17)])
        trainer.fit(module, data)
        trainer.save_checkpoint(folder / f"{name}.ckpt")
    fork_pair("tests/training/process.py", dataset, folder)
    return lambda run, rank=0: torch.load(folder / f"{run}-{rank}.pt", weights_only=True), folder


@pytest.fixture(scope="module")
def in_parts(dataset):
    return alone(dataset, parts=2)


@pytest.fixture(scope="module")
def undivided(dataset):
    return alone(dataset)


def assert_same_numbers(seen, expected, within):
    assert len(seen) == len(expected) == 6
    for one, other in zip(seen, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name] == pytest.approx(other[name], rel=within, abs=within, nan_ok=True), name


def test_a_batch_of_two_processes_is_that_of_one(two, in_parts):
    """Guards against selections, thresholds, penalties, norms and counters of a part in place of the batch."""
    left, _ = two
    trainer, module, seen = in_parts
    assert max(row for numbers in seen for row in numbers["aux"]) > 0 and seen[-1]["dead_train"][0] > 0
    for rank in range(2):
        found = left("batch", rank)
        assert found["steps"] == trainer.global_step == 30
        assert_equal(found["state"], state(module), within=CLOSE)
        for i, member in enumerate(module.bank):  # counted, not measured
            assert torch.equal(found["state"][f"bank.members.{i}.tokens_since_fired"], member.tokens_since_fired)
        assert_same_numbers(found["seen"], seen, CLOSE)


def test_members_apart_are_the_members_together_bit_for_bit(two, undivided):
    left, _ = two
    trainer, module, seen = undivided
    for rank in range(2):
        found = left("members", rank)
        assert found["steps"] == trainer.global_step == 30
        assert_equal(found["state"], state(module))
        assert_same_numbers(found["seen"], seen, 0)
        stepped = [i % 2 == rank and member.freeze != "all" for i, member in enumerate(module.bank)]
        assert found["with_state"] == stepped


@pytest.mark.parametrize("run", ["batch", "members"])
def test_both_processes_know_all_results(run, two, in_parts, undivided):
    left, _ = two
    _, module, _ = in_parts if run == "batch" else undivided
    for rank in range(2):
        for found, expected in zip(left(run, rank)["validated"], module.validated_rows(), strict=True):
            assert found == pytest.approx(expected, rel=CLOSE, nan_ok=True)


def test_one_process_resumes_a_run_of_two(two, dataset, in_parts, undivided):
    _, folder = two
    for name, parts, (_, through, _), within in (("batch", 2, in_parts, CLOSE), ("members", None, undivided, 0)):
        trainer, module, data = build(dataset, members(), parts=parts)
        trainer.fit(module, data, ckpt_path=folder / f"{name}-17.ckpt", weights_only=True)
        assert trainer.global_step == 30
        assert_equal(state(module), state(through), within=within)


def test_two_processes_resume_a_run_of_one(two, dataset, undivided):
    left, _ = two
    assert_equal(left("members-on")["state"], state(undivided[1]))
    _, module, _ = alone(dataset, parts=4)
    assert_equal(left("batch-on")["state"], state(module), within=CLOSE)
    assert left("batch-on")["steps"] == left("members-on")["steps"] == 30


def test_the_checkpoint_of_members_apart_is_that_of_one_process(two):
    _, folder = two
    apart, together = (torch.load(folder / name, weights_only=True) for name in ("members-17.ckpt", "one-17.ckpt"))
    assert apart.keys() == together.keys()
    assert_equal(apart["state_dict"], together["state_dict"])
    one, other = apart["optimizer_states"][0], together["optimizer_states"][0]
    assert one["param_groups"] == other["param_groups"] and list(one["state"]) == sorted(other["state"])
    for index, entry in other["state"].items():
        assert_equal(one["state"][index], entry)
    assert apart["ActivationDataModule"] == together["ActivationDataModule"]


@pytest.mark.parametrize("run", ["batch-bad", "members-bad"])
def test_every_process_stops_a_member_that_diverges(run, two, dataset):
    left, _ = two
    for rank in range(2):
        found = left(run, rank)
        assert found["stopped"] == [False, True, False] and found["steps"] == 12
    trainer, module, data = build(
        dataset, diverging(), steps=12, parts=2 if run == "batch-bad" else None, callbacks=[Snapshots()]
    )
    trainer.fit(module, data)
    for i in (0, 2):
        expected = {name: value for name, value in state(module).items() if name.startswith(f"bank.members.{i}.")}
        assert_equal({name: found["state"][name] for name in expected}, expected, within=CLOSE)


@pytest.mark.parametrize(
    ("run", "number"),
    [("training", signal.SIGINT), ("waiting", signal.SIGTERM), ("validation", signal.SIGINT)],
)
def test_a_signal_to_one_process_is_answered_by_both_while_a_batch_is_missing(run, number, two):
    left, folder = two
    one, other = (left(run, rank) for rank in range(2))
    for found in (one, other):
        assert found["received"] == number and found["waited"] < 2
        assert found["saved"] == found["steps"] and found["steps"] in ((10,) if run == "validation" else (6, 7))
    assert one["steps"] == other["steps"]
    assert torch.load(folder / run / "last.ckpt", weights_only=True)["global_step"] == one["steps"]
    if run != "waiting":
        assert_equal(left(f"{run}-resumed")["state"], left("undisturbed")["state"])


def test_processes_that_keep_running_after_a_signal_stay_at_the_same_step(two):
    left, folder = two
    assert torch.load(folder / "goes-on" / "last.ckpt", weights_only=True)["global_step"] in (6, 7)
    for rank in range(2):
        assert left("goes-on", rank)["steps"] == 14 and left("goes-on", rank)["received"] is None
        assert_equal(left("goes-on", rank)["state"], left("undisturbed")["state"])


def test_another_number_of_parts_is_refused_with_the_remedy(two, dataset):
    _, folder = two
    trainer, module, data = build(dataset, members())
    with pytest.raises(ValueError, match=r"parts=2, this run has parts=1: resume with datamodule\.parts=2"):
        trainer.fit(module, data, ckpt_path=folder / "batch-17.ckpt", weights_only=True)


def test_wrong_divisions_are_named():
    with pytest.raises(ValueError, match=r"trainer\.strategy\.split=latents: choose one of batch, members"):
        BankDDP(split="latents")
    check_members(2, len(specs()))
    with pytest.raises(ValueError, match=r"split=members: 3 processes .* for 2 SAEs.*take at most 2"):
        check_members(3, 2)
