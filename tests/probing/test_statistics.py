"""The table of a pass over codes and labels is what counting token by token gives, however the tokens were divided."""

import datetime
import logging
import pickle
from collections import Counter, defaultdict

import pytest
import torch
import torch.distributed as dist
from probing.labelled import CLASSES, LATENTS, N, codes, equal, labels, many_labels, table

from saev.codes.pairs import from_dense
from saev.ops.sparse import SparseCodes
from saev.probing.counts import segments
from saev.probing.counts import statistics as module
from saev.probing.counts.statistics import LatentLabelStats


def naive(x, y, counted, bits):
    """By dictionaries: {(latent, bin): values}, {(latent, bin, class): tokens}, sums of values of (latent, class)."""
    groups, joint, p1 = defaultdict(list), Counter(), Counter()
    for row in range(len(x)):
        if not counted[row]:
            continue
        for latent, value in enumerate(x[row].tolist()):
            if value:
                bits_of = int(torch.tensor(value).view(torch.int32)) & 0x7FFFFFFF
                key = (bits_of if value > 0 else -1 - bits_of) >> (23 - bits)
                groups[latent, key].append(value)
                for label in torch.nonzero(y[row]).flatten().tolist():
                    joint[latent, key, label] += 1
                    p1[latent, label] += value
    return groups, joint, p1


def one_hot(y):
    return torch.nn.functional.one_hot(y.clamp(min=0), CLASSES).bool()


@pytest.fixture(params=["numpy", "torch"])
def path(request, monkeypatch):
    """Both paths of the sorts and sums: that of CPUs, and that of other devices."""
    if request.param == "torch":
        monkeypatch.setattr(segments, "on_cpu", lambda x: False)


@pytest.mark.parametrize("bits", [0, 4, 10, 23])
@pytest.mark.parametrize("many", [False, True])
def test_it_is_counting_token_by_token(bits, many, path):
    x, y = codes(), many_labels() if many else labels()
    counted = torch.arange(N) % 3 > 0
    known = counted if many else counted & (y >= 0)
    hot = y if many else one_hot(y)
    found = table(x, y, bits, counted)
    groups, joint, p1 = naive(x, hot, known, bits)
    assert list(zip(found.latent.tolist(), found.key.tolist(), strict=True)) == sorted(groups)
    values = [groups[key] for key in sorted(groups)]
    assert found.count.tolist() == [len(v) for v in values]
    assert found.total.tolist() == pytest.approx([sum(v) for v in values], rel=1e-12, abs=1e-12)
    assert found.squares.tolist() == pytest.approx([sum(a * a for a in v) for v in values], rel=1e-12)
    keys = list(
        zip(found.latent[found.group].tolist(), found.key[found.group].tolist(), found.label.tolist(), strict=True)
    )
    assert keys == sorted(joint) and found.joint.tolist() == [joint[key] for key in keys]
    expected = torch.tensor([[float(p1[latent, label]) for label in range(CLASSES)] for latent in range(LATENTS)])
    torch.testing.assert_close(found.p1, expected.double(), rtol=1e-6, atol=1e-6)
    assert found.n_tokens == int(known.sum()) and torch.equal(found.positives, hot[known].sum(0))
    assert torch.equal(found.firings, (x[known] != 0).sum(0))
    assert torch.equal(found.p0, torch.einsum("tl,tc->lc", (x[known] != 0).long(), hot[known].long()))


def fed(x, y, cuts, bits=10):
    stats = LatentLabelStats(LATENTS, CLASSES, bits)
    for start, stop in zip([0, *cuts], [*cuts, len(x)], strict=True):
        stats.update(x[start:stop], y[start:stop])
    return stats


@pytest.mark.parametrize("few", [1, 1000, module.FEWEST])
@pytest.mark.parametrize("many", [False, True])
def test_batches_counting_often_and_merging_change_nothing(many, few, monkeypatch):
    x, y = codes(), many_labels() if many else labels()
    whole = table(x, y, 10)
    monkeypatch.setattr(module, "FEWEST", few)
    equal(fed(x, y, [1, 77, 77, 300]).compute(), whole)
    a, b, c = fed(x[:100], y[:100], []), fed(x[100:], y[100:], [30]), fed(x[:0], y[:0], [])
    b.compute()  # one of them counted already
    for other in (b, c):
        a.merge_state(other)
    equal(a.compute(), whole)
    a.reset()
    a.update(x, y)
    equal(a.compute(), whole)


def test_the_order_of_tokens_changes_nothing():
    x, y = codes(), labels()
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    equal(table(x[shuffled], y[shuffled]), table(x, y))


def test_sparse_codes_with_padding_and_dense_codes_are_one():
    x, y = codes(), labels()
    pairs = from_dense(x)
    padded = SparseCodes(torch.arange(0, N * LATENTS + 1, LATENTS), torch.arange(LATENTS).repeat(N).int(), x.flatten())
    for form in (pairs, padded):
        stats = LatentLabelStats(LATENTS, CLASSES, 23)
        stats.update(form, y)
        equal(stats.compute(), table(x, y))


def test_classes_one_at_a_time_are_labels():
    x, y = codes(), labels()
    equal(table(x, one_hot(y), counted=y >= 0), table(x, y))


def test_scaling_by_a_power_of_two_moves_every_bin_alike():
    x, y = codes(), labels()
    plain, scaled = table(x, y, 5), table(x * 8, y, 5)
    assert torch.equal(plain.count, scaled.count) and torch.equal(plain.joint, scaled.joint)
    assert torch.equal(plain.total * 8, scaled.total)
    up = plain.key >= 0
    assert torch.equal(scaled.key - plain.key, torch.where(up, 3 << 5, -(3 << 5)))


def test_counts_go_beyond_32_bits():
    stats = fed(torch.ones(4, LATENTS), torch.tensor([0, 1, 1, -1]), [])
    for _ in range(40):
        stats.merge_state(stats)
        stats.compute()
    found = stats.compute()
    assert found.n_tokens == 3 << 40 and found.positives.tolist() == [1 << 40, 2 << 40, 0, 0]
    assert found.count.tolist() == [3 << 40] * LATENTS and found.joint.tolist() == [1 << 40, 2 << 40] * LATENTS
    assert found.firings.tolist() == found.count.tolist() and found.p1[0].tolist() == [1 << 40, 2 << 40, 0, 0]


def test_over_budget_bins_are_widened_and_a_warning_says_so(caplog):
    x, y = codes(), labels()
    stats = LatentLabelStats(LATENTS, CLASSES, 23, budget_gib=600 * module.BYTES / 2**30)
    with caplog.at_level(logging.WARNING):
        for start in range(0, N, 100):
            stats.update(x[start : start + 100], y[start : start + 100])
            stats.compute()
    found = stats.compute()
    assert "bins are widened from 23 to 22 bits" in caplog.text
    assert 0 < found.mantissa_bits < 10 and len(found.joint) <= 600
    equal(found, table(x, y, found.mantissa_bits))
    other = fed(x, y, [], bits=23)
    other.merge_state(stats)  # narrow bins with wide ones
    assert other.compute().mantissa_bits == found.mantissa_bits
    stats.reset()
    stats.update(x[:10], y[:10])
    assert stats.compute().mantissa_bits == 23


def test_a_pass_resumes_from_its_state():
    x, y = codes(), labels()
    half = fed(x[:200], y[:200], [50])
    for resumed in (LatentLabelStats(LATENTS, CLASSES, 10), pickle.loads(pickle.dumps(half))):
        resumed.load_state_dict(half.state_dict())
        resumed.update(x[200:], y[200:])
        equal(resumed.compute(), table(x, y, 10), exact=False)
    equal(half.compute(), table(x[:200], y[:200], 10))


def test_dead_latents_and_one_entry_have_a_table():
    y = torch.tensor([0, 2, 2])
    dead = table(torch.zeros(3, LATENTS), y)
    assert len(dead.key) == len(dead.joint) == 0 and dead.positives.tolist() == [1, 0, 2, 0]
    assert dead.firings.tolist() == [0] * LATENTS and dead.p1.abs().sum() == 0
    one = table(torch.eye(3, LATENTS)[:1], y[:1])
    assert one.count.shape == (1,) and one.joint.tolist() == [1]


def test_bad_input_is_named():
    stats = LatentLabelStats(LATENTS, CLASSES)
    x, y = codes(), labels()
    with pytest.raises(ValueError, match=r"label 65535 with n_classes=4.*made -1"):
        stats.update(x[:2], torch.tensor([0, 65535]))
    with pytest.raises(ValueError, match=r"5 classes.*n_classes=4"):
        stats.update(x[:2], torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="codes of 3 tokens came with labels of 2"):
        stats.update(x[:3], y[:2])
    with pytest.raises(ValueError, match=r"7 latents.*n_latents=8"):
        stats.update(x[:2, :7], y[:2])
    with pytest.raises(ValueError, match=r"latents 1 to 8.*n_latents=8"):
        stats.update(SparseCodes(torch.tensor([0, 2]), torch.tensor([1, 8]), torch.ones(2)), y[:1])
    with pytest.raises(ValueError, match="not finite"):
        stats.update(torch.full((1, LATENTS), torch.nan), y[:1])
    stats.update(x[:2], torch.tensor([-1, -1]))
    with pytest.raises(ValueError, match="no token has a label"):
        stats.compute()
    with pytest.raises(ValueError, match="need 65 bits of 63"):
        LatentLabelStats(1 << 20, 4000)
    with pytest.raises(ValueError, match="mantissa_bits=24"):
        LatentLabelStats(8, 4, 24)


def process(results):
    """What each of two processes does."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(minutes=2))
    rank = dist.get_rank()
    x, y = codes(), labels()
    parts = (slice(0, 130), slice(130, N))  # uneven on purpose
    for name, mine in (("both", parts[rank]), ("one", slice(0, N) if rank else slice(0, 0))):
        stats = fed(x[mine], y[mine], [])
        torch.save(vars(stats.compute()), f"{results}/{name}{rank}.pt")
        assert stats.n_tokens == (y[mine] >= 0).sum()  # what it holds is its own again
    dist.destroy_process_group()


def test_two_processes_give_the_table_of_one(fork_pair, tmp_path):
    fork_pair("probing.test_statistics:process", tmp_path)
    expected = table(codes(), labels(), 10)
    for name in ("both0", "both1", "one0", "one1"):
        equal(type(expected)(**torch.load(tmp_path / f"{name}.pt")), expected)


def test_a_state_comes_to_the_resolve_device_who_loads_it():
    half = fed(codes(), labels(), [N])
    elsewhere = LatentLabelStats(LATENTS, CLASSES).to("meta")
    elsewhere.load_state_dict(half.state_dict())
    states = [elsewhere.positives, elsewhere.n_tokens, *elsewhere.keys, *elsewhere.totals]
    assert {state.device.type for state in states} == {"meta"}
