"""Pairs as a matrix."""

import torch

from saev.ops.fused.pairs import Pairs


def test_pairs_as_a_matrix():
    pairs = Pairs.empty(3, 6, 5, torch.device("cpu"))._replace(offsets=torch.tensor([0, 2, 2, 4], dtype=torch.int32))
    pairs.latents[:4] = torch.tensor([1, 4, 0, 5])
    pairs.values[:4] = torch.tensor([2.0, 3.0, 1.5, 0.0])
    assert pairs.dense().tolist() == [[0, 2, 0, 0, 3], [0] * 5, [1.5, 0, 0, 0, 0]]
    assert pairs.n_rows == 3 and pairs.d_sae == 5


def test_rows_of_equal_lengths():
    pairs = Pairs.equal_rows(130, 2, 7, torch.device("cpu"))
    assert pairs.offsets.tolist() == list(range(0, 261, 2)) and len(pairs.values) == 260
    assert pairs.counts.shape == (2, 7) and not pairs.counts.any()
