"""Lists are divided at the same numbers, and statistics are the same however they are divided."""

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from probing.labelled import CLASSES, LATENTS, N, codes, equal, labels, many_labels, table

from saev.probing.counts import segments
from saev.probing.counts.statistics import LatentLabelStats
from saev.probing.logistic.nodes import nodes


@pytest.fixture(params=["numpy", "torch"])
def path(request, monkeypatch):
    """Both paths: that of CPUs, and that of other devices."""
    if request.param == "torch":
        monkeypatch.setattr(segments, "on_cpu", lambda x: False)


@given(st.lists(st.lists(st.integers(0, 60), max_size=40), min_size=1, max_size=3), st.integers(0, 3))
def test_stretches_hold_everything_once_and_part_no_equal_numbers(lists, bits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "BLOCK", 3)
        lists = [sorted(numbers) for numbers in lists]
        found = segments.aligned_blocks([torch.tensor(numbers, dtype=torch.int64) for numbers in lists], bits)
    stretches = [[numbers[part] for numbers, part in zip(lists, parts, strict=True)] for parts in found]
    assert [list(chain(*parts)) for parts in zip(*stretches, strict=True)] == lists
    held = [{number >> bits for part in parts for number in part} for parts in stretches]
    assert sum(map(len, held)) == len(set().union(*held))


@pytest.mark.parametrize("block", [7, 100])
@pytest.mark.parametrize("bits", [0, 10])
@pytest.mark.parametrize("y", [labels(), many_labels()], ids=["one class", "many"])
def test_statistics_are_those_of_one_stretch(y, bits, block, path, monkeypatch):
    x = codes()
    whole = table(x, y, bits)
    monkeypatch.setattr(segments, "BLOCK", block)
    equal(table(x, y, bits), whole)
    parts = [LatentLabelStats(LATENTS, CLASSES, bits + extra) for extra in (3, 0, 1)]  # narrower bins with wider ones
    for stats, chosen in zip(parts, torch.arange(N).tensor_split(3), strict=True):
        stats.update(x[chosen], y[chosen])
        stats.compute()
        if stats is not parts[0]:
            parts[0].merge_state(stats)
    equal(parts[0].compute(), whole)


def test_nodes_are_those_of_one_stretch(monkeypatch):
    found = table(codes(), labels(), 10)
    whole = nodes(found)
    monkeypatch.setattr(segments, "BLOCK", 5)
    for column in ("offsets", "values", "weights", "hidden"):
        assert torch.equal(getattr(nodes(found), column), getattr(whole, column))
