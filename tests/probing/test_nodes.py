"""Nodes: the moments they keep, cells that get narrow where tokens are many, exact points, and sketches."""

import numpy as np
import pytest
import torch
from tables import table

from benchmarks.probe_reference import exact_nodes
from saev.probing.logistic.nodes import MAX_CELLS, coarsened, nodes

RNG = np.random.default_rng(0)
N = 5000
CODES = {
    "heavy": np.where(RNG.random(N) < 0.1, np.exp(RNG.normal(size=N)), 0),
    "dense": RNG.normal(100, 1, N),
    "signed": RNG.normal(size=N),
    "tied": RNG.integers(0, 4, N) / 2,
    "dead": np.zeros(N),
    "two values": np.where(RNG.random(N) < 0.2, np.where(RNG.random(N) < 0.3, 1.0, 1.001), 0),
}
X = torch.from_numpy(np.stack(list(CODES.values()), 1)).float().double()


def of_latent(found, k):
    part = slice(int(found.offsets[k]), int(found.offsets[k + 1]))
    return found.values[part], found.weights[part]


def raw(x):
    latent, token = x.T.nonzero(as_tuple=True)
    return exact_nodes(latent, x[token, latent], x.shape[1], len(x))


@pytest.mark.parametrize("bits", [0, 3, 10])
@pytest.mark.parametrize("case", CODES)
def test_count_mean_and_variance_are_those_of_the_codes(case, bits):
    x = X[:, list(CODES).index(case)]
    values, weights = of_latent(nodes(table(X), bits), list(CODES).index(case))
    assert weights.min() > 0 and (values.diff() > 0).all()
    assert float(weights.sum()) == pytest.approx(N, rel=1e-14)
    assert float((weights * values).sum()) == pytest.approx(float(x.sum()), rel=1e-12, abs=1e-12)
    assert float((weights * values**2).sum()) == pytest.approx(float((x**2).sum()), rel=1e-12)


def test_the_third_moment_is_kept_as_far_as_fine_bins_tell():
    x = X[:, 0]
    for bits in (0, 3):
        values, weights = of_latent(nodes(table(X), bits), 0)
        assert float((weights * values**3).sum()) == pytest.approx(float((x**3).sum()), rel=1e-8)


def test_one_or_two_distinct_values_are_their_own_nodes():
    values, weights = of_latent(nodes(table(X), 3), list(CODES).index("two values"))
    codes = X[:, list(CODES).index("two values")]
    expected, count = codes.unique(return_counts=True)
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(weights, count.double(), rtol=1e-6, atol=0)
    values, weights = of_latent(nodes(table(X), 3), list(CODES).index("dead"))
    assert values.tolist() == [0] and weights.tolist() == [N]


def test_codes_far_from_zero_are_resolved_by_their_spread():
    values, weights = of_latent(nodes(table(X), 0), list(CODES).index("dense"))
    assert weights.max() <= N / MAX_CELLS and values[weights > 1].diff().max() < 1.0
    coarse, _ = of_latent(nodes(table(X, bits=0), 0), list(CODES).index("dense"))
    assert len(coarse) <= 5  # the table itself knows no more


def test_scaling_scales_the_nodes():
    a, b, c = (nodes(table((X * by).float().double()), 3) for by in (1, 1024, 10))
    assert torch.equal(a.values * 1024, b.values) and torch.equal(a.weights, b.weights)
    assert 0.8 < len(c.values) / len(a.values) < 1.25


def test_more_bits_than_the_table_has_are_refused():
    with pytest.raises(ValueError, match="bits=11: must be 0 to 10"):
        nodes(table(X), 11)


def test_exact_nodes_are_the_distinct_codes_in_any_order():
    latent, token = X.T.nonzero(as_tuple=True)
    shuffled = torch.from_numpy(RNG.permutation(len(latent)))
    found = exact_nodes(latent[shuffled].int(), X[token, latent][shuffled], X.shape[1], N)
    for k in range(X.shape[1]):
        values, weights = of_latent(found, k)
        expected, count = X[:, k].unique(return_counts=True)
        assert torch.equal(values, expected) and torch.equal(weights, count.double())


def test_mean_and_deviation_are_those_of_all_tokens():
    for found in (raw(X), nodes(table(X)), coarsened(nodes(table(X)))):
        mean, std = found.moments()
        torch.testing.assert_close(mean, X.mean(0), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(std, X.std(0, correction=0), rtol=1e-7, atol=0)
    constant = raw(torch.full((7, 1), 0.1, dtype=torch.float64))
    assert constant.moments()[1].tolist() == [0]


def test_a_sketch_is_short_and_keeps_the_ends():
    full = raw(X)
    sketch = coarsened(full)
    assert sketch.lengths.max() <= 4 * np.log2(N) + 4
    for k in range(X.shape[1]):
        assert of_latent(sketch, k)[0][0] == of_latent(full, k)[0][0]
        assert float(of_latent(sketch, k)[0][-1]) == pytest.approx(float(of_latent(full, k)[0][-1]), rel=1e-15)


def test_padding_repeats_the_last_value_without_weight():
    found = nodes(table(X))
    values, weights, _ = found.padded(torch.tensor([4, 1]))
    assert values.shape == weights.shape == (2, int(found.lengths[1]))
    assert values[0].tolist() == [0] * values.shape[1] and weights[0, 1:].sum() == 0
    assert torch.equal(values[1], of_latent(found, 1)[0])
