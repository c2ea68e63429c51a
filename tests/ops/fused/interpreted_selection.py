"""Selections over a batch on CPU tensors, by Triton's interpreter: test_selection.py runs this file with TRITON_INTERPRET=1."""

import pytest
import torch
from ops.fused.selection_checks import check_batchtopk, check_beyond

from saev.ops.fused import batchtopk_pairs, check, pairs_beyond
from saev.ops.sparse import batchtopk_select


def batch(rows, d_sae, kind):
    """Pre-activations of one kind."""
    h = torch.randn(rows, d_sae, generator=torch.Generator().manual_seed(rows + d_sae)).bfloat16()
    if kind == "ties":
        return (h * 2).round() / 2
    if kind == "constant":
        return torch.ones_like(h)
    if kind == "none positive":
        return -h.abs()
    if kind == "few positive":
        return torch.where(torch.rand(h.shape, generator=torch.Generator().manual_seed(0)) < 0.01, h.abs(), -h.abs())
    if kind == "one row":  # all pairs of the batch are in it
        return torch.cat([h[:1].abs() + 9, h[1:]])
    if kind == "one latent":  # it fires on all rows
        return torch.cat([h[:, :3], h[:, :1].abs() + 9, h[:, 4:]], 1)
    if kind == "nan":
        h[0], h[1, ::2], h[2, 3], h[2, 1] = torch.nan, torch.inf, torch.nan, -torch.nan
        h.view(torch.int16)[3, ::3] = 0x7FFF
    return h


KINDS = ("any", "ties", "constant", "none positive", "few positive", "one row", "one latent", "nan")


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """A block of the histogram takes the interpreter as long as a row."""
    monkeypatch.setattr(batchtopk_pairs, "_BINS", 8192)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_the_largest_of_the_batch(kind):
    k, h = 7, batch(6, 200, kind)
    pairs = check_batchtopk(h, k)
    if kind != "nan":
        n = int(pairs.offsets[-1])
        values = batchtopk_select(h.float(), k).values
        assert torch.equal(pairs.values[:n].float().sort().values, values[values > 0].sort().values)


@pytest.mark.parametrize(
    ("rows", "d_sae", "k"), [(130, 32, 2), (9, 33, 33), (4, 1, 1)]
)  # two blocks of rows; all pairs; one
def test_pairs_of_a_batch_of_few_columns(rows, d_sae, k, monkeypatch):
    monkeypatch.setattr(batchtopk_pairs, "_TILE", 64)  # rows in several tiles
    check_batchtopk(batch(rows, d_sae, "any"), k)


def test_a_floor_above_the_threshold_is_given_up(monkeypatch):
    """The sample is one group of the largest pre-activations: fewer reach it than are selected."""
    monkeypatch.setattr(batchtopk_pairs, "SAMPLE", 1)
    h = batch(12, 64, "any")
    h[0, :32] = 100.0
    check_batchtopk(h, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_beyond_a_bound(kind):
    rows, d_sae = 5, 2600
    h = batch(rows, d_sae, kind)
    bound = torch.randn(d_sae, generator=torch.Generator().manual_seed(1)).abs() + 0.5
    bound[::7] *= -1  # theta below half of the kernel's width
    bound[1], bound[2], bound[3] = torch.inf, -torch.inf, h[0, 3].float()  # what equals the bound is not above it
    check_beyond(h, bound, rows * d_sae)


@pytest.mark.parametrize(("rows", "capacity"), [(130, 400), (6, 0), (6, 1), (6, 60)])
def test_what_has_no_room_is_left_out(rows, capacity, monkeypatch):
    monkeypatch.setattr(pairs_beyond, "_TILE", 64)
    check_beyond(batch(rows, 33, "any"), torch.zeros(33), capacity)


def test_the_check_at_a_run_s_start_passes_and_names_what_is_wrong(monkeypatch):
    cpu = torch.device("cpu")
    assert check.check_selections(cpu, 70, rows=20) is None
    monkeypatch.setattr(
        check, "pairs_beyond", lambda h, bound, *others: pairs_beyond.pairs_beyond(h, bound + 1, *others)
    )
    assert check.check_selections(cpu, 70, rows=20) == "the selection of beyond"
