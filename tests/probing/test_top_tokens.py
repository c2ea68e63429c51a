"""Precision and purity of the k largest codes against sorting, and against all orders of ties."""

import itertools

import numpy as np
import pytest
import torch
from probing.labelled import CLASSES, LATENTS, codes, labels, table

from saev.probing.ranking import precision_at, purity_at


@pytest.mark.parametrize("k", [1, 16, 40])
def test_it_is_the_share_of_the_class_among_the_k_largest_codes(k):
    x, y = codes(), labels()
    found = precision_at(table(x, y), k)
    known = (y >= 0).numpy()
    xs, ys = x.numpy()[known], y.numpy()[known]
    for latent in set(range(LATENTS)) - {6}:  # latent 6 ties
        order = np.argsort(-xs[:, latent], kind="stable")[:k]
        if xs[order[-1], latent] <= 0:
            assert found[latent].isnan().all()
            continue
        shares = [(ys[order] == c).mean() for c in range(CLASSES)]
        np.testing.assert_allclose(found[latent].numpy(), shares, atol=1e-12)
        assert purity_at(table(x, y), k)[latent] == pytest.approx(max(shares))


def test_ties_count_as_in_the_mean_over_all_their_orders():
    x = torch.tensor([[3.0], [2.0], [2.0], [2.0], [1.0], [0.0], [-1.0]])
    y = torch.tensor([0, 1, 0, 1, 0, 1, 1])
    found = precision_at(table(x, y), 2)[0, 1]
    orders = [[0, *middle][:2] for middle in itertools.permutations([1, 2, 3])]
    assert found == pytest.approx(np.mean([(y[order] == 1).double().mean() for order in orders]))


def test_latents_with_fewer_positive_codes_than_k_have_no_top():
    x = torch.tensor([[1.0, -3.0], [2.0, -2.0], [0.0, 1.0]])
    found = precision_at(table(x, torch.tensor([0, 1, 1])), 2)
    assert found[0].tolist() == [0.5, 0.5, 0, 0] and found[1].isnan().all()
    with pytest.raises(ValueError, match="at least 1"):
        precision_at(table(x, torch.tensor([0, 1, 1])), 0)
