"""Blocks: every wanted pair once, like lengths together, no larger than allowed where one latent alone is not."""

import pytest
import torch

from benchmarks.probe_reference import exact_nodes
from saev.probing.logistic import newton as module
from saev.probing.logistic.newton import blocks


@pytest.mark.parametrize("size", [1, 200, 1 << 20])
def test_every_wanted_pair_is_in_one_block(monkeypatch, size):
    monkeypatch.setattr(module, "SIZE", size)
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(300, dtype=torch.float64, generator=generator) + 1
    latents = (torch.rand(300, generator=generator) ** 2 * 20).long()
    points = exact_nodes(latents, values, 20, 1000)
    wanted = torch.rand(20, 7, generator=generator) < 0.4
    wanted[3] = False
    met = torch.zeros(20, 7, dtype=torch.int64)
    for block in blocks(points, wanted):
        met[block.at] += 1
        room = block.at[1].shape[0] * block.at[1].shape[1] * block.values.shape[1]
        assert room <= size or len(block.latents) == 1
        expected = points.padded(block.latents)
        assert torch.equal(block.values, expected[0]) and torch.equal(block.weights, expected[1])
    assert met.max() == 1 and (met[wanted] == 1).all() and met[3].sum() == 0


def test_nothing_wanted_makes_no_blocks():
    points = exact_nodes(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.float64), 2, 3)
    assert list(blocks(points, torch.zeros(2, 4, dtype=torch.bool))) == []
