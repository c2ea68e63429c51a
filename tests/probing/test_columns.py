"""Columns of chosen latents: which code is where, and turned round where a latent speaks against its class."""

import torch

from saev.codes.pairs import from_dense
from saev.probing.counts.table import Columns


def test_columns_are_the_chosen_latents_codes_turned_round_where_they_speak_against_a_class():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    x[x.abs() < 0.7] = 0
    best = torch.tensor([5, 2, -1, 5, 2])
    slope = torch.tensor([1.0, -2.0, 0.0, -3.0, -1.0], dtype=torch.float64)
    columns = Columns.choose(best, slope, 6)
    assert len(columns) == 3 and columns.of_class[2] == -1
    codes = columns.select(from_dense(x))
    dense = torch.zeros(50, 3)
    for row in range(50):
        here = slice(codes.offsets[row], codes.offsets[row + 1])
        dense[row, codes.latents[here]] = codes.values[here]
    for number, (latent, sign) in enumerate(zip(best.tolist(), slope.sign().tolist(), strict=True)):
        if latent >= 0:
            assert torch.equal(dense[:, columns.of_class[number]], sign * x[:, latent])


def test_no_class_with_a_latent_has_no_columns():
    columns = Columns.choose(torch.tensor([-1, -1]), torch.zeros(2, dtype=torch.float64), 6)
    codes = columns.select(from_dense(torch.ones(3, 6)))
    assert len(columns) == 0 and codes.offsets.tolist() == [0, 0, 0, 0] and len(codes.values) == 0
