"""Mixing against SciPy, brute force and the enumeration of every possible batch."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from saev.metrics.mixing import batch_entropy, expected_entropy, expected_mates, mates

POPULATIONS = [[1, 1, 1, 1], [3, 3], [4, 1, 2], [5], [2, 0, 3, 1]]


def _all_batches(population, batch):
    tokens = [group for group, size in enumerate(population) for _ in range(size)]
    return [torch.tensor(drawn) for drawn in itertools.combinations(tokens, batch)]


def test_entropy_is_scipys():
    ids = np.random.default_rng(0).integers(-50, 50, size=1000)
    expected = entropy(np.unique(ids, return_counts=True)[1], base=2)
    assert batch_entropy(torch.from_numpy(ids)).item() == pytest.approx(expected, rel=1e-12)


def test_entropy_ends():
    assert batch_entropy(torch.arange(256)).item() == 8.0
    assert batch_entropy(torch.full((256,), 3)).item() == 0.0


def test_mates_are_counted_pairwise():
    ids = np.random.default_rng(1).integers(0, 9, size=60)
    expected = np.mean([sum(a == b for b in ids) - 1 for a in ids])
    assert mates(torch.from_numpy(ids)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_expectations_are_means_over_all_batches(population, batch):
    drawn = _all_batches(population, batch)
    sizes = torch.tensor(population)
    entropies, companions = [batch_entropy(ids).item() for ids in drawn], [mates(ids).item() for ids in drawn]
    assert expected_entropy(sizes, batch) == pytest.approx(np.mean(entropies), abs=1e-10)
    assert expected_mates(sizes, batch) == pytest.approx(np.mean(companions), abs=1e-10)


def test_expected_entropy_of_a_large_dataset_is_close_to_a_sample():
    images, tokens, batch = 2000, 196, 4096
    rng = np.random.default_rng(2)
    ids = np.repeat(np.arange(images), tokens)
    sampled = [batch_entropy(torch.from_numpy(rng.choice(ids, batch, replace=False))).item() for _ in range(5)]
    assert expected_entropy(torch.full((images,), tokens), batch) == pytest.approx(np.mean(sampled), abs=5e-3)


@pytest.mark.parametrize("batch", [0, 7])
def test_batch_must_fit_the_population(batch):
    with pytest.raises(ValueError, match=f"batch={batch}.*6 tokens"):
        expected_entropy(torch.tensor([3, 3]), batch)
    with pytest.raises(ValueError, match=f"batch={batch}"):
        expected_mates(torch.tensor([3, 3]), batch)
