"""Numbers of a shared batch: two processes get those of the whole batch, one process keeps its own."""

import datetime

import pytest
import torch
import torch.distributed as dist

from benchmarks.ops_reference import batchtopk_codes, batchtopk_reference
from saev.ops import collective

SIZES = (7, 4)  # tokens of each process
K, MANY = 3, 40  # at MANY a process is first asked for fewer values than the whole batch keeps


def kept_per_token(name):
    return MANY if name.startswith("wide") else K


def test_alone_everything_stays_as_it_is():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    for function in (
        collective.weight_by_fraction,
        collective.all_reduce_sum,
        collective.all_reduce_min,
        collective.all_reduce_mean,
    ):
        assert function(x) is x
    assert collective.world_size() == 1 and collective.global_batch_size(5) == 5
    assert [float(value) for value in collective.all_reduce_means([x[0], x[1]])] == [1.0, 2.0]
    collective.all_reduce_sum_([x])
    assert x.tolist() == [1.0, 2.0]


def batches():
    """Pre-activations of the whole batch [11, 40], by what is difficult about them."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(sum(SIZES), 40, generator=generator)
    lopsided = torch.cat([h[: SIZES[0]].abs() + 10, h[SIZES[0] :] - 10])
    ties = torch.randint(-2, 3, h.shape, generator=generator).float()
    many = torch.randn(sum(SIZES), 4000, generator=generator)
    return {
        "ordinary": h,
        "all of one process": lopsided,
        "all of the other": lopsided.flip(0),
        "few positive": h - 2.5,
        "none positive": -h.abs(),
        "ties": ties,
        "all equal": torch.ones_like(h),
        "wide": many,
        "wide, of one process": torch.cat([many[: SIZES[0]], many[SIZES[0] :] + 10]),
    }


def process(folder):
    """What each of two processes does."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(minutes=2))
    rank = dist.get_rank()
    start, here = (0, SIZES[0]) if rank == 0 else SIZES
    x = torch.arange(11.0)[start : start + here].requires_grad_()
    found = {}
    with collective.sharded_batch(here, sum(SIZES)):
        mean = collective.all_reduce_mean(x.mean())
        collective.weight_by_fraction((mean - 2).square()).backward()
        sums = [torch.full((2,), rank + 1.0), torch.tensor(float(here))]
        collective.all_reduce_sum_(sums)
        found["numbers"] = {
            "mean": mean.detach(),
            "gradient": x.grad,
            "means": torch.stack(collective.all_reduce_means([x.mean(), x.detach().max()])),
            "total": collective.all_reduce_sum(torch.tensor([rank, here])),
            "least": collective.all_reduce_min(torch.tensor([rank - 0.5, -rank])),
            "sums": torch.cat([s.view(-1) for s in sums]),
            "world": torch.tensor([collective.world_size(), collective.global_batch_size(here)]),
        }
        found["told"] = {
            name: torch.tensor(collective.global_threshold(torch.tensor(own[rank]), budget=4) is not None)
            for name, own in {"enough": ([5.0, 1, 1], [4.0, 3, 0]), "too few": ([9.0, 8, 7], [4.0, 3, 2])}.items()
        }
        found["codes"] = {
            name: batchtopk_codes(h[start : start + here], kept_per_token(name)) for name, h in batches().items()
        }
    assert collective.world_size() == 1
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(fork_pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("collective")
    fork_pair("ops.test_collective:process", folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_means_are_weighed_by_tokens_and_so_are_their_gradients(two):
    x = torch.arange(11.0, requires_grad=True)
    (x.mean() - 2).square().backward()
    gradient = torch.cat([found["numbers"]["gradient"] for found in two])
    torch.testing.assert_close(gradient, x.grad)
    for found in two:
        assert float(found["numbers"]["mean"]) == pytest.approx(5)
        assert found["numbers"]["means"].tolist() == pytest.approx([5, (6 * 7 + 10 * 4) / 11])


def test_candidates_that_are_too_few_are_noticed_by_all(two):
    for found in two:
        assert found["told"] == {"enough": True, "too few": False}


def test_sums_and_minima_are_over_processes(two):
    for found in two:
        assert found["numbers"]["total"].tolist() == [1, 11]
        assert found["numbers"]["least"].tolist() == [-0.5, -1]
        assert found["numbers"]["sums"].tolist() == [3, 3, 11]
        assert found["numbers"]["world"].tolist() == [2, 11]


@pytest.mark.parametrize("name", batches())
def test_the_largest_of_the_whole_batch_are_kept(name, two):
    """Guards against a threshold of each part, and against candidates that were too few."""
    h, k = batches()[name], kept_per_token(name)
    found = torch.cat([part["codes"][name] for part in two])
    kept = h.flatten()[batchtopk_reference(h, k).indices].relu()
    assert int((found > 0).sum()) == int((kept > 0).sum()) <= k * len(h)
    torch.testing.assert_close(found[found > 0].sort().values, kept[kept > 0].sort().values, rtol=0, atol=0)
    assert torch.equal(found[found > 0], h[found > 0])
