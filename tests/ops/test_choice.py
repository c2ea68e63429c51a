"""Which path is measured as the faster one, where there can be no doubt."""

import time

import pytest
import torch

from saev.ops import choice
from saev.ops.choice import faster_path, uneven


def test_few_of_many_latents_are_faster_by_pairs_and_many_of_few_by_matrices(monkeypatch):
    monkeypatch.setattr(choice, "_now", lambda device: time.process_time())  # other processes do not disturb it
    few = faster_path(256, 64, 8192, 2, torch.device("cpu"))
    assert few.path == "sparse" and few.sparse < few.dense
    many = faster_path(2048, 64, 64, 48, torch.device("cpu"))
    assert many.path == "dense" and many.dense < many.sparse


def test_autocast_is_timed_too():
    timed = faster_path(32, 16, 64, 4, torch.device("cpu"), torch.bfloat16)
    assert timed.sparse > 0 and timed.dense > 0


def test_prefixes_are_timed_where_a_member_has_them(monkeypatch):
    asked, real = [], choice.prefix_errors
    monkeypatch.setattr(choice, "prefix_errors", lambda *a: asked.append((a[3], a[4])) or real(*a))
    faster_path(33, 16, 60, 4, torch.device("cpu"))
    assert not asked
    faster_path(33, 16, 60, 4, torch.device("cpu"), prefixes=3)
    assert {path for _, path in asked} == {"sparse", "dense"} and all(ends == [20, 40, 60] for ends, _ in asked)


@pytest.mark.parametrize(("d_sae", "k"), [(1024, 8), (16384, 32), (9, 9), (10, 7), (5, 1)])
def test_latents_are_different_and_uneven(d_sae, k):
    latents = uneven(4000, d_sae, k, torch.Generator().manual_seed(0))
    assert latents.shape == (4000, k) and latents.min() >= 0 and latents.max() < d_sae
    assert bool((latents.diff(dim=1) > 0).all())
    shares = torch.bincount(latents.flatten(), minlength=d_sae) / 4000
    if d_sae == 16384:
        assert shares[0] == 1 and shares[100] == pytest.approx(0.03, abs=0.02) and shares[10000] < 0.002
