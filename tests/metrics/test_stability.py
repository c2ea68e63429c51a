"""Cross-seed stability against NumPy's full matrix and every permutation."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from saev.metrics.stability import matched_cosines, mean_max_cosine, stability


def _atoms(n, d_model=6, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d_model)).astype(np.float32))


@pytest.mark.parametrize("block", [1, 5, 2048])
def test_mean_max_cosine_is_that_of_the_whole_matrix(block):
    a, b = _atoms(13), _atoms(21, seed=1)
    cos = cosine_similarity(a.numpy().astype(float), b.numpy().astype(float))
    found = mean_max_cosine(a, b, block)
    assert [x.item() for x in found] == pytest.approx([cos.max(1).mean(), cos.max(0).mean()], rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (3, 6), (6, 3)])
def test_the_assignment_is_the_best_of_all(n, m):
    a, b = _atoms(n), _atoms(m, seed=1)
    cos = cosine_similarity(a.numpy().astype(float), b.numpy().astype(float))
    cos = cos if n <= m else cos.T
    best = max(
        (cos[np.arange(len(cos)), list(p)] for p in itertools.permutations(range(cos.shape[1]), len(cos))), key=np.sum
    )
    assert sorted(matched_cosines(a, b).tolist()) == pytest.approx(sorted(best), abs=1e-7)


def test_a_dictionary_in_another_order_and_scale_is_the_same():
    a = _atoms(30)
    b = a[torch.randperm(30, generator=torch.Generator().manual_seed(3))] * 4
    assert [x.item() for x in stability(a, b)] == pytest.approx([1, 1, 1, 1], abs=1e-6)


def test_directions_are_signed():
    assert mean_max_cosine(torch.eye(3), -torch.eye(3))[0].item() == 0.0
    assert matched_cosines(torch.eye(1), -torch.eye(1)).item() == -1.0


def test_shared_counts_pairs_of_seven_tenths_or_more():
    a = torch.eye(4)
    b = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0.9, 0], [0, 0, 0.6, 0.8], [0, 0, 0, 0]])
    assert stability(a, b).shared.item() == 3 / 4


def test_above_the_limit_a_sample_is_matched_with_all():
    a = _atoms(40)
    pairs = matched_cosines(a, a.flip(0), most=8)
    assert len(pairs) == 8 and pairs.tolist() == pytest.approx([1] * 8)


def test_another_width_is_refused():
    with pytest.raises(ValueError, match="6 and 5 dimensions"):
        stability(_atoms(4), _atoms(4, d_model=5))
