"""Codes of images: maxima and means over all tokens, whatever the batches; and samples that take as much of each image."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from saev.codes.pairs import from_dense
from saev.probing.sparse.codes import PooledCodes, pad_columns, sample_evenly

TOKENS, LATENTS = 60, 7


def dense(seed):
    """Signed, sparse; latent 5 is negative everywhere, 6 dead."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((TOKENS, LATENTS)) < 0.3, rng.normal(size=(TOKENS, LATENTS)), 0).astype(np.float32)
    x[:, 5], x[:, 6] = -np.abs(rng.normal(size=TOKENS)) - 0.1, 0
    return x


@given(st.integers(0, 99), st.lists(st.integers(0, TOKENS), max_size=4))
def test_pooled_codes_are_those_of_dense_ones_whatever_the_batches(seed, cuts):
    x, rng = dense(seed), np.random.default_rng(seed)
    image = rng.choice([-1, 0, 1, 3], TOKENS)  # tokens of other images, an image without tokens
    pooled, ends = PooledCodes(4), [0, *sorted(cuts), TOKENS]
    for first, last in pairwise(ends):
        pooled.update(from_dense(torch.from_numpy(x[first:last])), image[first:last])
    for pooling, by in (("max", np.max), ("mean", np.mean)):
        found = np.zeros((4, LATENTS))
        codes = pooled.codes(pooling).toarray()
        found[:, : codes.shape[1]] = codes
        for i in range(4):
            mine = x[image == i]
            expected = by(mine.astype(np.float64), 0) if len(mine) else np.zeros(LATENTS)
            np.testing.assert_allclose(found[i], expected, rtol=1e-6, atol=1e-9)


def test_memory_is_that_of_pairs_that_fire():
    pooled = PooledCodes(1)
    pooled.update(from_dense(torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])), np.zeros(2, np.int64))
    assert pooled.nbytes == 2 * 24


def test_no_codes_give_an_empty_matrix():
    pooled = PooledCodes(3)
    assert pooled.codes("max").nnz == 0 and len(pooled.codes("mean").indptr) == 4


def test_matrices_are_made_as_wide_as_the_wider():
    a, b = pad_columns(csr_array(np.eye(2)), csr_array(np.array([[0.0, 0.0, 0.0, 2.0]])))
    assert a.shape == (2, 4) and b.shape == (1, 4) and a.toarray()[1].tolist() == [0, 1, 0, 0]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 9))
def test_a_sample_has_as_many_of_each_group_as_of_any_that_has_more(group, most, seed):
    group = np.array(group)
    drawn = sample_evenly(group, most, seed)
    assert len(drawn) == min(most, len(group)) and (np.diff(drawn) > 0).all()
    held, taken = np.bincount(group, minlength=6), np.bincount(group[drawn], minlength=6)
    fullest = taken.max()
    assert all(taken[i] >= fullest - 1 or taken[i] == held[i] for i in range(6))


def test_a_sample_is_that_of_its_seed():
    group = np.repeat(np.arange(10), 20)
    assert (sample_evenly(group, 50, 1) == sample_evenly(group, 50, 1)).all()
    assert (sample_evenly(group, 50, 1) != sample_evenly(group, 50, 2)).any()
